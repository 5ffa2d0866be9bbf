"""Trains the image tokenizer of the embedded world: the first of the three steps that rebuild the shipped base.

    python -m corl_jax.main --config=configs/tokenizer.py --workdir=runs/tokenizer

Pictures of 48 pixels become 36 codes out of 256, and come back.
"""

from __future__ import annotations

import ml_collections

from configs import common


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """``arg``: ``size`` and ``mesh``."""
    c = common.base("tokenizer", common.parse_arg(arg))
    c.steps = 2000
    c.batch_size = 16
    c.optim.learning_rate = 4e-3
    c.optim.warmup_ratio = 0.0125
    c.optim.schedule = "cosine"
    c.optim.final_fraction = 0.02
    c.optim.weight_decay = 0.01
    c.tokenizer = ml_collections.ConfigDict(
        {
            "squared": 1.0,
            "absolute": 0.2,
            "codebook": 1.0,
            "commitment": 0.25,
            "usage": 0.005,
            "usage_temperature": 0.1,
        }
    )
    c.hooks.save_every = 500
    c.hooks.sample_every = 500
    c.show = ("loss", "psnr", "codes_used")
    return c
