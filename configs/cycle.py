"""CoRL's pilot study: one policy learns both tasks in turns, to compare with both at once.

    python -m corl_jax.main --config=configs/cycle.py                 the embedded world
    python -m corl_jax.main --config=configs/cycle.py:janus_pro_1b    the paper's values

@HEAD@
A step samples and trains one task alone. The paper gives no period; here tasks change after every
step (``config.rl.rollout.alternate_every=1``). There are twice as many steps as in the unified run,
so that each task is updated as often.
"""

from __future__ import annotations

import ml_collections

from configs import recipes, unified


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """``arg``: as for ``configs/unified.py``."""
    c = unified.get_config(arg)
    recipes.pilot(c)
    c.steps *= 2
    c.rl.rollout.alternate_every = 1
    return c
