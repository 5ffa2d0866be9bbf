"""How the papers' other recipes differ from the unified one; each function changes a unified config."""

from __future__ import annotations

from typing import Literal

import ml_collections

UNIFIED_WORKDIR = "runs/unified"
"""Work directory of the policy that refinements start from."""

PILOT_RECORDS = 16_000
"""Records of ``x2x_rft_16k``."""


def train_only(c: ml_collections.ConfigDict, task: Literal["image", "text"]) -> None:
    """Trains one task, with 0 prompts of the other.

    At full size rewards of pictures that are not trained are left out: only probes and evaluations
    would need them, and their reward models much memory.
    """
    c.rl.rollout["text_prompts" if task == "image" else "image_prompts"] = 0
    c.rl.advantage.pairing = "separate"
    c.progress_metrics = tuple(name for name in c.progress_metrics if name.startswith(task))
    if task == "text" and c.model.size != "tiny":
        c.rewards.image = ml_collections.ConfigDict()


def constant_kl(c: ml_collections.ConfigDict, coefficient: float) -> None:
    """The same KL coefficient for both tasks at every step."""
    for task in ("image", "text"):
        c.kl[task].update({"schedule": "constant", "start": coefficient, "end": coefficient})


def refine(
    c: ml_collections.ConfigDict, task: Literal["image", "text"], records: int, source: str
) -> None:
    """CoRL's Stage II: one task, from the unified policy, held to it by KL (its hyperparameters).

    Args:
      c: a unified config of any size.
      task: the task to refine.
      records: number of records of the paper's data set, read once.
      source: address of them, at full size.
    """
    train_only(c, task)
    constant_kl(c, 0.02)
    c.init_from = UNIFIED_WORKDIR
    if c.model.size == "tiny":
        c.steps = 100
        return

    prompts = 16 if task == "image" else 32
    c.rl.rollout.update(
        {
            f"{task}_prompts": prompts,
            "group_size": 16,
            "image_prompt_length": 256,
            "completion_length": 512,
        }
    )
    c.optim.learning_rate = 1e-6
    c.steps = records // prompts
    c.microbatches = 4 if c.model.size == "janus_pro_1b" else 2
    c.data.source = source


def pilot(c: ml_collections.ConfigDict) -> None:
    """CoRL's pilot study (its section 3.2): Stage I on 16,000 records, images rewarded by CLIP."""
    c.rl.advantage.pairing = "separate"
    if c.model.size == "tiny":
        return
    c.rewards.image = ml_collections.ConfigDict({"clip": 1.0})
    c.rewards.options.models.clip = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    c.steps = PILOT_RECORDS // c.rl.rollout.image_prompts
    c.data.source = "x2x_rft_16k"


def othink(c: ml_collections.ConfigDict, kind: str, beta: tuple[float, float]) -> None:
    """OThink-MR1: questions of one kind, 8 answers each, with a dynamic KL coefficient (its Eq. 3).

    Where the paper gives no value, those of R1-V count, whose settings it follows: learning rate
    1e-6, 16 prompts a step. The paper trains Qwen2-VL; here it is a Janus policy.

    Args:
      c: a unified config of any size.
      kind: kind of the embedded world's questions.
      beta: smallest and largest KL coefficient.
    """
    train_only(c, "text")
    smallest, largest = beta
    c.kl.text.update(
        {"schedule": "grpo_d", "start": smallest, "end": largest, "explore_fraction": 0.3}
    )
    c.rl.rollout.group_size = 8
    if c.model.size == "tiny":
        c.data.question_kinds = (kind,)
        c.evals.num_records = 256  # the test split has no more of a kind
        return
    c.rl.rollout.completion_length = 512
    c.optim.learning_rate = 1e-6


def plan(c: ml_collections.ConfigDict) -> None:
    """T2I-R1: a plan before every picture. At full size with the values of its code.

    Args:
      c: a unified config of any size, or one of pictures alone.
    """
    if c.model.size == "tiny":
        # Room for the point between prompt and plan; a plan lists up to three objects.
        c.rl.rollout.image_prompt_length = 24
        c.rl.plan.update({"length": 18, "prompt_length": 32})
        return
    constant_kl(c, 0.01)
    c.rl.plan.update({"length": 128, "prompt_length": 256})
    c.rl.loss.aggregation = "token_mean"
    c.optim.learning_rate = 1e-6
    c.steps = 1600


CAPTION_AND_QUESTION = "a picture of {prompt}.\n{question}"
"""A question about a picture that is told in words."""

ANSWERED_BY_CAPTIONS = ("count", "colour", "shape", "existence")
"""Kinds of questions of the embedded world whose answer is in the caption of every scene."""


def texts_first(c: ml_collections.ConfigDict) -> None:
    """LMM-R1's first stage: the same questions, about captions in the place of pictures.

    Evaluations would ask them with the caption, too, so that there is none.
    """
    train_only(c, "text")
    c.rl.rollout.question_pictures = False
    c.data.template = CAPTION_AND_QUESTION
    c.evals.num_records = 0
    if c.model.size == "tiny":
        c.data.question_kinds = ANSWERED_BY_CAPTIONS


def perception(c: ml_collections.ConfigDict) -> None:
    """Perception-R1: answers alone, rewarded also for the objects that their thinking names.

    Weights are those of its code: accuracy .9, format .1, facts .7, repetition as it is.
    """
    train_only(c, "text")
    c.rewards.text = ml_collections.ConfigDict(
        {"accuracy": 0.9, "format": 0.1, "perception": 0.7, "repetition": 1.0}
    )
    for task in ("image", "text"):
        c.kl[task].update({"schedule": "none", "start": 0.0, "end": 0.0})
    c.progress_metrics = ("text/reward", "text/reward/perception")
    c.optim.warmup_ratio = 0.05
    if c.model.size != "tiny":
        c.optim.learning_rate = 1e-6
