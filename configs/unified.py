"""Unified reinforcement learning on the embedded world: one policy learns to draw and to answer from the same updates.

python -m corl_jax.main --config=configs/unified.py
"""

from __future__ import annotations

import ml_collections

from configs import common


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """``arg``: ``size`` and ``mesh``."""
    c = common.base("rl", common.parse_arg(arg))
    c.steps = 200
    c.init_from = "tiny"
    c.trainable = ("language_model/*",)
    c.optim.learning_rate = 2e-4
    c.optim.warmup_ratio = 0.025
    c.optim.schedule = "linear"
    c.optim.final_fraction = 0.2
    c.rl = ml_collections.ConfigDict(
        {
            "pictures": 8,
            "questions": 24,
            "group": 8,
            "guidance": 2.0,
            "temperature": 1.0,
            "logprob_guidance": "matched",
            "image_prompt_length": 20,
            "text_prompt_length": 64,
            "completion_length": 18,
            "pairing": "separate",
            "text_weight": 0.8,
            "scale": "group",
            "aggregation": "sequence_mean",
            "clip": "ppo",
            "epsilon_low": 0.2,
            "epsilon_high": 0.2,
            "image_weight": 1.0,
            "answer_weight": 2.0,
            "shared_prefix": True,
        }
    )
    c.rewards = ml_collections.ConfigDict(
        {
            "image": {"shapes_strict": 0.5, "shapes_soft": 0.5},
            "text": {"accuracy": 1.0, "format": 1.0},
        }
    )
    c.kl = ml_collections.ConfigDict({task: kl_block() for task in ("image", "text")})
    c.evals = ml_collections.ConfigDict({"n": 512, "guidances": (1.0, 1.5, 2.0), "seed": 0, "batch": 64})
    c.hooks.save_every = 50
    c.hooks.sample_every = 25
    c.show = ("image/reward", "text/reward", "image/kl", "text/kl")
    c.alarm.watch = ("*/reward", "grad_norm")
    return c


def kl_block() -> dict[str, float | str]:
    """OThink-MR1's V-shaped coefficient."""
    return {
        "schedule": "grpo_d",
        "start": 0.0,
        "end": 0.03,
        "explore": 0.3,
        "target": 0.05,
        "rate": 0.1,
        "estimator": "k3",
    }
