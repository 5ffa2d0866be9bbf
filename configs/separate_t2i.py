"""CoRL's pilot study: reinforcement learning of drawing alone, to compare with learning both at once.

python -m corl_jax.main --config=configs/separate_t2i.py

Values of Stage I; at full size the reward is the CLIP score and the records are 16,000.
"""

from __future__ import annotations

import ml_collections

from configs import recipes, unified


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """``arg``: as for ``configs/unified.py``."""
    c = unified.get_config(arg)
    recipes.pilot(c)
    recipes.only(c, "image")
    return c
