"""How the papers' other recipes differ from the unified one. In: a unified config; out: the same, changed in place."""

from __future__ import annotations

from typing import Literal

import ml_collections

UNIFIED = "runs/unified"
"""Work directory that refinements start from."""
PILOT_RECORDS = 16_000
"""Of ``x2x_rft_16k``."""


def only(c: ml_collections.ConfigDict, task: Literal["image", "text"]) -> None:
    """Trains one task, by asking 0 of the other."""
    c.rl["questions" if task == "image" else "pictures"] = 0
    c.rl.pairing = "separate"
    c.show = tuple(name for name in c.show if name.startswith(task))


def constant_kl(c: ml_collections.ConfigDict, coefficient: float) -> None:
    """The same coefficient of both tasks at every step."""
    for task in ("image", "text"):
        c.kl[task].update({"schedule": "constant", "start": coefficient, "end": coefficient})


def refine(
    c: ml_collections.ConfigDict, task: Literal["image", "text"], records: int, folder: str
) -> None:
    """CoRL's Stage II: one task, behind the unified stage, held to it by KL (table of hyperparameters).

    Args:
      c: a unified config of any size.
      task: which.
      records: of the paper's data set, read once.
      folder: where they lie, at full size.
    """
    only(c, task)
    constant_kl(c, 0.02)
    c.init_from = UNIFIED
    if c.model.size == "tiny":
        c.steps = 100
        return
    prompts = 16 if task == "image" else 32
    c.rl.update(
        {
            "pictures" if task == "image" else "questions": prompts,
            "group": 16,
            "completion_length": 512,
        }
    )
    c.rl.image_prompt_length = 256
    c.optim.learning_rate = 1e-6
    c.steps = records // prompts
    c.microbatches = 4 if c.model.size == "janus_pro_1b" else 2
    c.data.dir = folder


def pilot(c: ml_collections.ConfigDict) -> None:
    """CoRL's pilot study (its section 3.2): Stage I values on 16,000 records, pictures rewarded by CLIP alone."""
    c.rl.pairing = "separate"
    if c.model.size == "tiny":
        return
    c.rewards.image = ml_collections.ConfigDict({"clip": 1.0})
    c.reward.models.clip = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    c.steps = PILOT_RECORDS // c.rl.pictures
    c.data.dir = "data/x2x_rft_16k"


def othink(c: ml_collections.ConfigDict, kind: str, beta: tuple[float, float]) -> None:
    """OThink-MR1: questions of one kind, 8 answers each, with a dynamic KL coefficient (its Eq. 3).

    Where the paper says nothing the values are those of R1-V, whose settings it follows: learning rate 1e-6, 16 prompts
    a step. It trained Qwen2-VL; here it is a policy of ours.

    Args:
      c: a unified config of any size.
      kind: of the embedded world's questions.
      beta: least and largest coefficient.
    """
    only(c, "text")
    least, largest = beta
    c.kl.text.update({"schedule": "grpo_d", "start": least, "end": largest, "explore": 0.3})
    c.rl.group = 8
    if c.model.size == "tiny":
        c.data.questions = (kind,)
        c.evals.n = 256  # of which the test split has so many
        return
    c.rl.completion_length = 512
    c.optim.learning_rate = 1e-6
