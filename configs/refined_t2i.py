"""CoRL's Stage II for drawing: refines the unified policy on text to image alone.

    python -m corl_jax.main --config=configs/refined_t2i.py                 the embedded world, behind runs/unified
    python -m corl_jax.main --config=configs/refined_t2i.py:janus_pro_1b    the paper's values

At full size: 16 prompts of 16 samples, KL 0.02, learning rate 1e-6, prompts of 256 tokens, one epoch of 16,000 records.
``config.init_from`` is the policy to refine.
"""

from __future__ import annotations

import ml_collections

from configs import recipes, unified


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """``arg``: as for ``configs/unified.py``."""
    c = unified.get_config(arg)
    recipes.refine(c, "image", records=16_000, folder="data/x2x_rft_16k")
    return c
