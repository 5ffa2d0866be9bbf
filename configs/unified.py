"""Unified RL: one policy learns text-to-image and image-to-text from the same updates (GRPO).

    python -m corl_jax.main --config=configs/unified.py                  the embedded world
    python -m corl_jax.main --config=configs/unified.py:janus_pro_1b     CoRL's Stage I

Hardware and time: the embedded world takes 4 to 7 minutes on 2 CPU cores; CoRL's Stage I at 1B fits
a TPU v5e-8 (11 of 16 GiB per chip by ``corl plan``; docs/planning.md).
Expected of the embedded world, held out: images that show what was asked 31 % -> 44 % at guidance
1.5, right and well-formed answers 32 % -> 49 % (README has the table and the machine).

The embedded world takes more questions than captions, and each task its own advantage, which
measured better (docs/tuning.md). At full size the values are the paper's: 16 prompts of 8 samples,
a pair of image and answer with one reward ``r_image + 0.8 r_text`` and one advantage, guidance 5,
no KL, learning rate 4e-6 falling to 0 over one epoch of 22,479 records in ``config.data.source``
(docs/recipes.md). ``config.init_from`` may be any folder of Janus-Pro in either layout.

    configs/unified.py:tiny,rewards=paper    CoRL's rewards, with random tiny reward models
    configs/unified.py:tiny,rewards=cycle+matching    rewards of images by name, of equal weight
    configs/unified.py:tiny,compat=ulm_r1    what ULM-R1's code does where we do otherwise
    configs/unified.py:janus_pro_7b,lora=32  trains adapters of rank 32 alone
    configs/unified.py:janus_pro_1b,lora=32,mesh=v5e-1    on one chip (Colab, Kaggle), with a batch that
                                             fits it; also l4x1, a100_40x1: configs/one_chip.py

``compat=ulm_r1`` sets the values of ``ULM_R1`` below. Each is a switch of its own, explained in
docs/variants.md, and none is on by default.
"""

from __future__ import annotations

import ml_collections

from corl_jax.configs import common
from corl_jax.configs.one_chip import fit_one_chip
from corl_jax.core.errors import UserError
from corl_jax.objectives.kl import KlConfig
from corl_jax.rewards.config import RewardOptions
from corl_jax.stages.rl.config import BLOCKS

COMPAT = ("none", "ulm_r1")


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The config of an argument.

    Args:
      arg: ``size``, ``mesh``, ``lora`` (a rank); ``rewards``: ``shapes`` (at full size the
        paper's), ``paper``, or rewards of images by name joined by ``+``; ``compat``: of ``COMPAT``.
    """
    values = common.parse_arg(arg, rewards="shapes", compat="none")
    if values["compat"] not in COMPAT:
        raise UserError(f"compat must be one of {', '.join(COMPAT)}; got {values['compat']!r}")

    c = embedded_world(values)
    is_full_size = values["size"] != "tiny"
    if is_full_size:
        corl_stage_one(c, values["size"])
    if values["size"] == "janus_pro_1b":
        fit_one_chip(c, values["mesh"])
    if is_full_size or values["rewards"] == "paper":
        corl_rewards(c, values["size"])
    if values["rewards"] not in ("shapes", "paper"):
        names = values["rewards"].split("+")
        c.rewards.image = ml_collections.ConfigDict(dict.fromkeys(names, 1.0))
    if values["compat"] == "ulm_r1":
        c.update_from_flattened_dict(ULM_R1)
        c.rl.rollout.text_prompts = c.rl.rollout.image_prompts  # its prompts come in pairs
    return c


def embedded_world(values: dict[str, str]) -> ml_collections.ConfigDict:
    """Drawing and questions in the world of shapes, from the shipped base."""
    c = common.base("rl", values)
    c.steps = 200
    c.init_from = "tiny"
    c.trainable = ("language_model/*",)
    c.optim.learning_rate = 2e-4
    c.optim.warmup_ratio = 0.025
    c.optim.schedule = "linear"
    c.optim.final_fraction = 0.2

    # All options with their defaults: corl_jax/stages/rl/config_blocks.py.
    c.rl = ml_collections.ConfigDict({name: common.defaults(cls) for name, cls in BLOCKS.items()})
    c.rl.rollout.update(
        {
            "image_prompts": 8,
            "text_prompts": 24,
            "group_size": 8,
            "guidance_scale": 2.0,
            "temperature": 1.0,
            "image_prompt_length": 20,
            "text_prompt_length": 64,
            "completion_length": 18,
        }
    )
    c.rl.loss.task_weight.update({"image": 1.0, "text": 2.0})
    c.rl.log_probs.shared_prefix = ("text",)

    c.rewards = ml_collections.ConfigDict(
        {
            "image": {"shapes_strict": 0.5, "shapes_soft": 0.5},
            "text": {"accuracy": 1.0, "format": 1.0},
        }
    )
    c.rewards.options = common.defaults(RewardOptions)
    c.kl = ml_collections.ConfigDict({task: grpo_d() for task in ("image", "text")})

    c.evals = common.evals(num_records=512, guidance_scales=(1.0, 1.5, 2.0))
    c.hooks.save_every = 50
    c.hooks.sample_every = 25
    c.hooks.probe_every = 25
    c.hooks.interference_every = 25
    c.progress_metrics = ("image/reward", "text/reward", "image/kl", "text/kl")
    c.alarms.watch = ("*/reward", "grad_norm")
    return c


def grpo_d() -> ml_collections.ConfigDict:
    """OThink-MR1's V-shaped KL coefficient."""
    c = common.defaults(KlConfig)
    c.update({"schedule": "grpo_d", "start": 0.0, "end": 0.03, "explore_fraction": 0.3})
    return c


def corl_stage_one(c: ml_collections.ConfigDict, size: str) -> None:
    """CoRL's Stage I on a released model (its table of hyperparameters)."""
    c.init_from = {
        "janus_pro_1b": "deepseek-community/Janus-Pro-1B",
        "janus_pro_7b": "deepseek-community/Janus-Pro-7B",
    }[size]
    c.steps = 1405  # 22,479 records by 16
    c.microbatches = 2 if size == "janus_pro_1b" else 1
    c.model.remat = "full"
    c.optim.learning_rate = 4e-6
    c.optim.warmup_ratio = 0.0
    c.optim.final_fraction = 0.0
    c.optim.b2 = 0.999

    c.rl.rollout.update(
        {
            "image_prompts": 16,
            "text_prompts": 16,
            "guidance_scale": 5.0,
            "image_prompt_length": 128,
            "text_prompt_length": 1024,
            "completion_length": 576,
        }
    )
    c.rl.advantage.pairing = "unified"
    c.rl.loss.task_weight.text = 1.0
    # Weighs tokens of which sampler and loss think differently (docs/precision.md).
    c.rl.loss.importance_cap = 2.0
    c.rl.log_probs.update({"chunk_length": 144, "shared_prefix": ("image", "text")})
    for task in ("image", "text"):
        c.kl[task].update({"schedule": "none", "start": 0.0, "end": 0.0})

    c.data.source = "x2x_rft_22k"
    # The data set has no test split. The paper trains on all of its records; ``steps`` is the paper's.
    c.data.held_out = 0.01
    # No parser knows what photographs show, so the run's rewards score them. An evaluation draws as
    # many pictures as a step, and answers twice as many questions (docs/metrics.md).
    c.evals.update({"num_records": 128, "scoring": "rewards", "guidance_scales": (5.0,)})
    c.evals.batch_size = 32  # a prompt each, without samples that share it: fits where a step does
    c.hooks.probe_every = 100
    c.hooks.save_every = 100
    # This hook holds both gradients, which ``corl plan`` does not count.
    c.hooks.interference_every = 100


def corl_rewards(c: ml_collections.ConfigDict, size: str) -> None:
    """CoRL's rewards as its first code has them: cycle consistency by BLIP, BERTScore and LPIPS, and
    matching.

    At ``tiny`` the reward models are random: a run shows that all is connected, and learns nothing.
    """
    c.rewards.image = ml_collections.ConfigDict({"cycle_both": 1.0, "matching": 1.0})
    c.rewards.options.update(
        {"captioner": "blip", "similarity": "bertscore", "image_distance": "lpips"}
    )
    for name, hub_id in REWARD_MODELS.items():
        c.rewards.options.models[name] = "tiny" if size == "tiny" else hub_id


ULM_R1 = {
    "model.param_dtype": "bfloat16",
    "rl.log_probs.image_alignment": "off_by_one_ulm_r1",
    "rl.log_probs.guidance": "conditional",
    "rl.loss.clip": "none",
    "rl.loss.importance_cap": 0.0,
    "rl.loss.task_weight.text": 1.0,
    "rl.loss.aggregation": "sequence_mean",
    "rl.advantage.pairing": "unified",
    "rl.advantage.pairing_text_weight": 0.8,
    "rl.advantage.baseline": "mean",
    "rl.advantage.normalization": "group",
    "rewards.options.normalization": "none",
    "rewards.options.open_ended": "soft_jaccard",
    "rewards.options.strict_whitespace": True,
}
"""The first public version of CoRL's code: it reads an image token's log-prob off the state after it
and without the guidance that sampled it, keeps parameters in bfloat16 without a float32 copy, does
not clip, adds up image rewards as they come, gives wrong open answers partial credit, and counts
white space around the tags as a wrong form. We do not, by default: token and log-prob belong
together, the paper's text has binary answers and rewards in [0, 1], and most bfloat16 parameters do
not move at its learning rate."""

REWARD_MODELS = {
    "captioner": "Salesforce/blip-image-captioning-base",
    "bert": "google-bert/bert-base-uncased",
    "lpips": "timm/vgg16.tv_in1k",
}
"""Ids of the paper's reward models on the Hugging Face hub; lpips wants another file beside it
(docs/rewards.md)."""
