"""Unified reinforcement learning: one policy learns to draw and to answer from the same updates.

python -m corl_jax.main --config=configs/unified.py                  the embedded world, minutes on a CPU
python -m corl_jax.main --config=configs/unified.py:janus_pro_1b     CoRL's Stage I values on the released weights
python -m corl_jax.main --config=configs/unified.py:tiny,rewards=paper   its rewards, with random tiny reward models
python -m corl_jax.main --config=configs/unified.py:tiny,compat=reference   what CoRL's code does where we do otherwise
python -m corl_jax.main --config=configs/unified.py:janus_pro_7b,lora=32  adapters of rank 32 alone are trained

The embedded world takes more questions than pictures, and each task its own advantage, since that measured better
(docs/tuning.md). At full size the numbers are the paper's: 16 prompts of 8 samples, both of a pair with one reward
``r_image + 0.8 r_text`` and one advantage, guidance 5, no KL, learning rate 4e-6 falling to 0 over one epoch of 22,479
pairs, which are files in ``config.data.dir`` (docs/recipes.md). ``config.init_from`` may be any folder of Janus-Pro in
either layout.

``compat=reference``, at any size, sets what ``REFERENCE`` below lists: the first version of CoRL's code scores an image
token by the state that has read it already, and without the guidance that drew it; keeps parameters in bfloat16 with no
master copy; has no clip; adds up picture rewards as they come; gives open answers credit in part; and takes white space
around the tags for a wrong form. Each is a switch of its own (docs/variants.md), and none is on by default: token
and score belong together, the paper's text has binary answers and rewards in [0, 1], and of a bfloat16 policy most
parameters do not move at its learning rate.
"""

from __future__ import annotations

import ml_collections

from configs import common
from corl_jax.core.errors import UserError


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """``arg``: ``size``, ``mesh``, ``lora`` (a rank); ``rewards``: ``shapes`` (at full size the paper's), ``paper``, or
    those of pictures by name, joined by ``+``, which then count the same; ``compat``: ``none`` or ``reference``."""
    values = common.parse_arg(arg, rewards="shapes", compat="none")
    if values["compat"] not in ("none", "reference"):
        raise UserError(f"unknown compat {values['compat']!r}; expected none or reference")
    c = tiny(values)
    if values["size"] != "tiny":
        paper(c, values["size"])
    if values["size"] != "tiny" or values["rewards"] == "paper":
        paper_rewards(c, values["size"])
    if values["rewards"] not in ("shapes", "paper"):
        c.rewards.image = ml_collections.ConfigDict(
            dict.fromkeys(values["rewards"].split("+"), 1.0)
        )
    if values["compat"] == "reference":
        c.update_from_flattened_dict(
            REFERENCE | {"rl.questions": c.rl.pictures}
        )  # which it asks in pairs
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
            "alternate": 0,  # steps of one task alone, then as many of the other; 0: both in every step
            "group": 8,
            "guidance": 2.0,
            "temperature": 1.0,
            "logprob_guidance": "matched",  # or conditional
            "image_logprob_alignment": "aligned",  # or reference_off_by_one
            "image_prompt_length": 20,
            "text_prompt_length": 64,
            "completion_length": 18,
            "pairing": "separate",
            "text_weight": 0.8,
            "baseline": "mean",  # or leave_one_out
            "scale": "group",  # or batch, none
            "aggregation": "sequence_mean",  # or token_mean, fixed_length
            "clip": "ppo",  # or two_sided, none
            "epsilon_low": 0.2,
            "epsilon_high": 0.2,
            "clip_ceiling": 3.0,  # of the ratio where the advantage is negative; two_sided alone
            "entropy_bonus": {"image": 0.0, "text": 0.0},
            "image_weight": 1.0,
            "answer_weight": 2.0,
            "shared_prefix": ("text",),  # tasks scored behind one reading of a prompt
            "rollout_weights": "same",  # or int8
            "rollout_cache": "same",  # or int8
            "score_chunk": 0,  # tokens of a completion with logits at a time; 0: all
            "stale_rollouts": False,  # sample one update early, while rewards are computed
            "importance_cap": 0.0,  # largest weight of a token whose sampler differed from the policy; 0: none
            "reference_every": 0,  # steps from one move of the reference towards the policy to the next; 0: it stays
            "reference_mix": 0.6,  # how far
            "refill": 0,  # rounds a step that replace groups whose rewards are all equal, at most
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
            "open_ended": "exact",  # or soft_jaccard
            "own": (),  # your rewards, "module:function"
            "models": {"captioner": "", "bert": "", "sentence": "", "clip": "", "lpips": ""},
        }
    )
    c.kl = ml_collections.ConfigDict({task: kl_block() for task in ("image", "text")})
    c.evals = ml_collections.ConfigDict(
        {"n": 512, "guidances": (1.0, 1.5, 2.0), "seed": 0, "batch": 64}
    )
    c.hooks.save_every = 50
    c.hooks.sample_every = 25
    c.hooks.probe_every = 25
    c.hooks.interference_every = 25
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
    c.data.update({"name": "records", "dir": "data/x2x_rft_22k"})
    c.hooks.probe_every = 0  # they would need a test.jsonl
    c.evals.n = 0  # the parser of the embedded world reads its own small pictures alone
    c.hooks.save_every = 100
    c.hooks.interference_every = 100  # holds both gradients; ``corl plan`` does not count it


def paper_rewards(c: ml_collections.ConfigDict, size: str) -> None:
    """CoRL's rewards as its first code has them: cycle consistency by BLIP, BERTScore and LPIPS, and matching.

    At ``tiny`` the reward models are random: that shows that all is connected, and teaches nothing.
    """
    c.rewards.image = ml_collections.ConfigDict({"cycle_both": 1.0, "matching": 1.0})
    c.reward.update({"captioner": "blip", "similarity": "bertscore", "closeness": "lpips"})
    for name, home in MODELS.items():
        c.reward.models[name] = "tiny" if size == "tiny" else home


REFERENCE = {
    "model.param_dtype": "bfloat16",
    "rl.image_logprob_alignment": "reference_off_by_one",
    "rl.logprob_guidance": "conditional",
    "rl.clip": "none",
    "rl.pairing": "unified",
    "rl.text_weight": 0.8,
    "rl.answer_weight": 1.0,
    "rl.baseline": "mean",
    "rl.scale": "group",
    "rl.aggregation": "sequence_mean",
    "reward.normalise": "none",
    "reward.open_ended": "soft_jaccard",
    "reward.strict_whitespace": True,
}
"""The first public version of CoRL's code, where it differs from what we do (at ``tiny`` also from what is paired)."""

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
