"""Unified reinforcement learning: one policy learns to draw and to answer from the same updates.

python -m corl_jax.main --config=configs/unified.py                  the embedded world, minutes on a CPU
python -m corl_jax.main --config=configs/unified.py:janus_pro_1b     CoRL's Stage I values on the released weights
python -m corl_jax.main --config=configs/unified.py:tiny,rewards=paper   its rewards, with random tiny reward models
python -m corl_jax.main --config=configs/unified.py:janus_pro_7b,lora=32  adapters of rank 32 alone are trained

The embedded world takes more questions than pictures, and each task its own advantage, since that measured better
(docs/tuning.md). At full size the numbers are the paper's: 16 prompts of 8 samples, both of a pair with one reward
``r_image + 0.8 r_text`` and one advantage, guidance 5, no KL, learning rate 4e-6 falling to 0 over one epoch of 22,479
pairs. ``config.init_from`` may be any folder of Janus-Pro in either layout.
"""

from __future__ import annotations

import ml_collections

from configs import common
from corl_jax.core.errors import UserError


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """``arg``: ``size``, ``mesh``, ``lora`` (a rank), ``rewards``: ``shapes``, or ``paper`` as always at full size."""
    values = common.parse_arg(arg, rewards="shapes")
    if values["rewards"] not in ("shapes", "paper"):
        raise UserError(f"unknown rewards {values['rewards']!r}; expected shapes or paper")
    c = tiny(values)
    if values["size"] != "tiny":
        paper(c, values["size"])
    if values["size"] != "tiny" or values["rewards"] == "paper":
        paper_rewards(c, values["size"])
    return c


def tiny(values: dict[str, str]) -> ml_collections.ConfigDict:
    """The embedded world."""
    c = common.base("rl", values)
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
            "shared_prefix": ("text",),  # tasks scored behind one reading of a prompt
            "rollout_weights": "same",  # or int8
            "rollout_cache": "same",  # or int8
            "score_chunk": 0,  # tokens of a completion with logits at a time; 0: all
            "stale_rollouts": False,  # sample one update early, while rewards are computed
            "importance_cap": 0.0,  # largest weight of a token whose sampler differed from the policy; 0: none
        }
    )
    c.rewards = ml_collections.ConfigDict(
        {
            "image": {"shapes_strict": 0.5, "shapes_soft": 0.5},
            "text": {"accuracy": 1.0, "format": 1.0},
        }
    )
    c.reward = ml_collections.ConfigDict(
        {
            "normalise": "unit",
            "captioner": "shapes_parser",
            "similarity": "token_f1",
            "closeness": "rmse",
            "strict_whitespace": False,
            "own": (),  # your rewards, "module:function"
            "models": {"captioner": "", "bert": "", "sentence": "", "clip": "", "lpips": ""},
        }
    )
    c.kl = ml_collections.ConfigDict({task: kl_block() for task in ("image", "text")})
    c.evals = ml_collections.ConfigDict({"n": 512, "guidances": (1.0, 1.5, 2.0), "seed": 0, "batch": 64})
    c.hooks.save_every = 50
    c.hooks.sample_every = 25
    c.hooks.probe_every = 25
    c.show = ("image/reward", "text/reward", "image/kl", "text/kl")
    c.alarm.watch = ("*/reward", "grad_norm")
    return c


def paper(c: ml_collections.ConfigDict, size: str) -> None:
    """CoRL's Stage I on a released model."""
    c.init_from = {
        "janus_pro_1b": "deepseek-community/Janus-Pro-1B",
        "janus_pro_7b": "deepseek-community/Janus-Pro-7B",
    }[size]
    c.steps = 1405  # 22,479 pairs by 16
    c.microbatches = 2 if size == "janus_pro_1b" else 1
    c.model.remat = "full"
    c.optim.learning_rate = 4e-6
    c.optim.warmup_ratio = 0.0
    c.optim.final_fraction = 0.0
    c.optim.b2 = 0.999
    c.rl.update(
        {
            "pictures": 16,
            "questions": 16,
            "guidance": 5.0,
            "image_prompt_length": 128,
            "text_prompt_length": 1024,
            "completion_length": 576,
            "pairing": "unified",
            "answer_weight": 1.0,
            "score_chunk": 144,
            "shared_prefix": ("image", "text"),
        }
    )
    for task in ("image", "text"):
        c.kl[task].update({"schedule": "constant", "start": 0.0, "end": 0.0})
    c.evals.n = 0  # the parser of the embedded world reads its own small pictures alone
    c.hooks.save_every = 100


def paper_rewards(c: ml_collections.ConfigDict, size: str) -> None:
    """CoRL's rewards as its first code has them: cycle consistency by BLIP, BERTScore and LPIPS, and matching.

    At ``tiny`` the reward models are random: that shows that all is connected, and teaches nothing.
    """
    c.rewards.image = ml_collections.ConfigDict({"cycle_both": 1.0, "matching": 1.0})
    c.reward.update({"captioner": "blip", "similarity": "bertscore", "closeness": "lpips"})
    for name, home in MODELS.items():
        c.reward.models[name] = "tiny" if size == "tiny" else home


MODELS = {
    "captioner": "Salesforce/blip-image-captioning-base",
    "bert": "google-bert/bert-base-uncased",
    "lpips": "timm/vgg16.tv_in1k",
}
"""Where the paper's reward models lie on the Hugging Face hub; lpips wants a file beside it: docs/rewards.md."""


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
