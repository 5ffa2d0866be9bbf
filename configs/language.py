"""Reading before seeing: a language model of the embedded world that looks answers up in a text.

    python -m corl_jax.main --config=configs/language.py --workdir=runs/language
    python -m corl_jax.main --config=configs/sft.py --config.sft.document_rows=8 \
        "--config.init_from=image_tokenizer/*=tiny,language_model/*=runs/language"

Hardware and time: not run to its end yet; the loss of answers fell from 3.6 to 0.29 nats per token in the
first 112 steps (2 CPU cores of an AMD EPYC with other work, 2026-11-27).
Expected: answers to questions about a scene in words, behind the words. Not measured yet.

It reads documents: a list of objects, and many questions about it with their answers, since one
question about each picture brings one telling token per text. The second command hands the language
model to supervised learning, which goes on reading some documents. The shipped base has not gone
this way.
"""

from __future__ import annotations

import ml_collections

from corl_jax.configs import common
from corl_jax.stages.sft import SftConfig


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """``arg``: ``size`` and ``mesh``."""
    c = common.base("sft", common.parse_arg(arg))
    c.steps = 1000
    c.batch_size = 32
    c.trainable = ("language_model/*",)
    c.optim.learning_rate = 2e-3
    c.optim.warmup_ratio = 0.04
    c.optim.schedule = "cosine"
    c.optim.final_fraction = 0.05
    c.optim.weight_decay = 0.01
    c.sft = common.defaults(SftConfig)
    c.sft.update({"understanding_rows": 0, "generation_rows": 0, "document_rows": 32})
    c.hooks.save_every = 200
    c.progress_metrics = ("loss", "documents/nll")
    return c
