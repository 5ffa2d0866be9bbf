"""CoRL's Stage II for text-to-image: refines the unified policy on captions alone.

    python -m corl_jax.main --config=configs/refined_t2i.py                 the embedded world
    python -m corl_jax.main --config=configs/refined_t2i.py:janus_pro_1b    the paper's values

@HEAD@

It starts from ``runs/unified``; ``config.init_from`` changes that. At full size: 16 prompts of 16
samples, KL 0.02, learning rate 1e-6, prompts of 256 tokens, one epoch of 16,000 records.
"""

from __future__ import annotations

import ml_collections

from configs import recipes, unified


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """``arg``: as for ``configs/unified.py``."""
    c = unified.get_config(arg)
    recipes.refine(c, "image", records=16_000, folder="data/x2x_rft_16k")
    return c
