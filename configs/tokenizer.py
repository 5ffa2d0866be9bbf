"""Image tokenizer of the embedded world: the first of the steps that make the shipped base.

    python -m corl_jax.main --config=configs/tokenizer.py --workdir=runs/tokenizer

Hardware and time: 5 minutes on 2 CPU cores (AMD EPYC, 2026-11-26).
Expected: held-out images are reconstructed with a PSNR of 33 dB, from about a hundred codes.

Images of 48 pixels a side become 36 image tokens out of 256, and images again.
"""

from __future__ import annotations

import ml_collections

from corl_jax.configs import common
from corl_jax.stages.tokenizer import TokenizerConfig


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
    c.tokenizer = common.defaults(TokenizerConfig)
    c.hooks.save_every = 500
    c.hooks.sample_every = 500
    c.progress_metrics = ("loss", "psnr", "codes_used")
    return c
