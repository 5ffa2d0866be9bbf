"""CoRL's pilot study: one policy learns both tasks in turns, to compare with both at once.

    python -m corl_jax.main --config=configs/cycle.py                 the embedded world
    python -m corl_jax.main --config=configs/cycle.py:janus_pro_1b    the paper's values

Hardware and time: in the embedded world the 200 steps of images take about 3 minutes on 2 CPU cores and
those of questions half of it (AMD EPYC, 2026-11-26, timed in the two separate runs).
Expected of the embedded world, held out: as the unified run. Images that show what was asked 31 % ->
44 % at guidance 1.5, right and well-formed answers 32 % -> 51 %.

A step samples and trains one task alone. The paper gives no period; here tasks change after every
step (``config.rl.rollout.alternate_every=1``). There are twice as many steps as in the unified run,
so that each task is updated as often.
"""

from __future__ import annotations

import ml_collections

from corl_jax.configs import recipes, unified


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """``arg``: as for ``configs/unified.py``."""
    c = unified.get_config(arg)
    recipes.pilot(c)
    c.steps *= 2
    c.rl.rollout.alternate_every = 1
    return c
