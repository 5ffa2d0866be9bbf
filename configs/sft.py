"""Supervised base of the embedded world, from a trained image tokenizer: the second step towards the shipped base.

    python -m corl_jax.main --config=configs/sft.py --workdir=runs/sft

It reads ``runs/tokenizer``. Honest and mediocre on purpose: a short training, and a share of answers out of form, so
that reinforcement learning has room in both tasks.
"""

from __future__ import annotations

import ml_collections

from configs import common


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
    c.sft = ml_collections.ConfigDict(
        {
            "reading_rows": 18,
            "caption_share": 0.25,
            "sloppy_share": 0.35,
            "dropout": 0.1,
            "drawing_length": 20,
            "reading_length": 64,
            "target_length": 16,
            "drawing_weight": 1.0,
        }
    )
    c.hooks.save_every = 200
    c.show = ("loss", "text/nll", "image/nll")
    return c
