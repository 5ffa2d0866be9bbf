"""CoRL's Stage II for text-to-image: refines the unified policy on captions alone.

    python -m corl_jax.main --config=configs/refined_t2i.py                 the embedded world
    python -m corl_jax.main --config=configs/refined_t2i.py:janus_pro_1b    the paper's values

Hardware and time: the embedded world takes 90 seconds on 2 CPU cores (AMD EPYC, 2026-11-26).
`corl plan` tells what the full size needs.
Expected of the embedded world, held out: nothing lost and little gained, as the unified run was just
before. Images that show what was asked 43.6 % -> 45.3 % at guidance 1.5, with an error of 2.2.

It starts from ``runs/unified``; ``config.init_from`` changes that. At full size: 16 prompts of 16
samples, KL 0.02, learning rate 1e-6, prompts of 256 tokens, one epoch of 16,000 records.
"""

from __future__ import annotations

import ml_collections

from corl_jax.configs import recipes, unified


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """``arg``: as for ``configs/unified.py``."""
    c = unified.get_config(arg)
    recipes.refine(c, "image", records=16_000, source="x2x_rft_16k")
    return c
