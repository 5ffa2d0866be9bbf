"""The cold start that CoRL compares with: supervised learning of the same prompts and questions.

    python -m corl_jax.main --config=configs/cold_sft.py                 from the shipped base
    python -m corl_jax.main --config=configs/cold_sft.py:janus_pro_1b    records in data/cold_sft

Hardware and time: the embedded world takes one minute on 2 CPU cores (AMD EPYC, 2026-11-26).
Expected of the embedded world, held out: right and well-formed answers 32 % -> 49 %, as those of
records have the format; images that show what was asked 31 % -> 34 % at guidance 1.5.

It trains the language model alone, as reinforcement learning does, on as many records as the unified
run has prompts. At full size those are the 66,479 of the paper's comparison, read once, with each
record's own solution as the target. The paper gives no hyperparameters; learning rate and warm-up
are R1-V's for supervised training.
"""

from __future__ import annotations

import ml_collections

from corl_jax.configs import sft, unified

RECORDS = 22_479 + 2 * 22_000
"""``x2x_rft_22k``, and 22,000 each of multiple choice and of open questions."""


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """``arg``: ``size`` and ``mesh``."""
    c, rl = sft.get_config(arg), unified.get_config(arg)
    c.init_from = rl.init_from
    c.trainable = rl.trainable
    c.sft.malformed_share = 0.0
    c.sft.caption_share = 0.0
    if c.model.size == "tiny":
        c.steps = rl.steps
        c.batch_size = c.sft.understanding_rows = rl.rl.rollout.text_prompts
        c.optim.learning_rate = rl.optim.learning_rate
        return c

    c.batch_size = c.sft.understanding_rows = 32
    c.steps = RECORDS // c.batch_size
    c.microbatches = 4
    c.model.remat = rl.model.remat
    c.optim.update({"learning_rate": 2e-5, "warmup_ratio": 0.1, "final_fraction": 0.0, "b2": 0.999})
    c.sft.update(
        {
            "generation_prompt_length": 128,
            "understanding_prompt_length": 1024,
            "target_length": 512,
        }
    )
    c.data.source = "data/cold_sft"
    c.data.held_out = rl.data.held_out
    return c
