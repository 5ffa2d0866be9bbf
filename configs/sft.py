"""Supervised base of the embedded world: the second of the steps that make the shipped base.

    python -m corl_jax.main --config=configs/sft.py --workdir=runs/sft

Hardware and time: 2,600 steps of 0.35 seconds, 15 minutes, on 2 CPU cores (AMD EPYC, 2026-11-26).
Expected, held out: images that show what was asked 31 % at guidance 1.5, right and well-formed answers
32 %, the shipped base (docs/tuning.md, which has other numbers of steps too).

It starts from the image tokenizer in ``runs/tokenizer``. The base is honest and mediocre on purpose:
a short training, with a share of malformed answers, so that reinforcement learning has something to
improve in both tasks.
"""

from __future__ import annotations

import ml_collections

from corl_jax.configs import common
from corl_jax.stages.sft import SftConfig


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """``arg``: ``size``, ``mesh`` and ``tokenizer``, the work directory of the image tokenizer."""
    values = common.parse_arg(arg, tokenizer="runs/tokenizer")
    c = common.base("sft", values)
    c.steps = 2600
    c.batch_size = 64
    c.init_from = f"image_tokenizer/*={values['tokenizer']}"
    c.trainable = (
        "vision_model/*",
        "aligner/*",
        "language_model/*",
        "gen_embed/*",
        "gen_aligner/*",
        "gen_head/*",
    )
    c.optim.learning_rate = 1.5e-3
    c.optim.warmup_ratio = 0.04
    c.optim.schedule = "cosine"
    c.optim.final_fraction = 0.05
    c.optim.weight_decay = 0.01
    c.sft = common.defaults(SftConfig)
    c.hooks.save_every = 200
    c.progress_metrics = ("loss", "text/nll", "image/nll")
    return c
