"""CoRL's pilot study: one policy learns to draw and to answer by turns, to compare with learning both at once.

python -m corl_jax.main --config=configs/cycle.py --config.rl.alternate=1

A step asks, samples and updates one task alone. The paper gives no period; here tasks change after every step. There
are twice as many steps as in the unified run, so that each task is updated as often.
"""

from __future__ import annotations

import ml_collections

from configs import recipes, unified


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """``arg``: as for ``configs/unified.py``."""
    c = unified.get_config(arg)
    recipes.pilot(c)
    c.steps *= 2
    c.rl.alternate = 1
    return c
