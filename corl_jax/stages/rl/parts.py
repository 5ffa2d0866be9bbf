"""The parts of a step's rollouts and of its update batch.

A task has one part, of its own name, that earns its rewards. It may have others beside it, whose
tokens are of the same records and share the task's KL term and weight in the loss.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

from corl_jax.core.types import Modality


@dataclasses.dataclass(frozen=True)
class Part:
    """What the tokens of a part belong to.

    Attributes:
      task: whose records, KL term and weight in the loss it has.
      rewards: the part whose rewards, and so whose advantages, its tokens earn.
      modality: of its tokens.
    """

    task: str
    rewards: str
    modality: Modality


PARTS: Mapping[str, Part] = {
    # What is written before a picture is drawn, and earns what the picture earns.
    "plan": Part(task="image", rewards="image", modality="text"),
    "image": Part(task="image", rewards="image", modality="image"),
    "text": Part(task="text", rewards="text", modality="text"),
    # What is said of pictures that were drawn, and earns a reward of its own.
    "check": Part(task="image", rewards="check", modality="text"),
}
"""Part by name, in the order in which a step samples them. Metrics have these names."""


def parts_of(task: str, names: Collection[str]) -> list[str]:
    """Those parts of a task that are among ``names``."""
    return [name for name, part in PARTS.items() if part.task == task and name in names]


def parts_rewarded_as(rewarded: str, names: Collection[str]) -> list[str]:
    """Those of ``names`` that earn the rewards of the part ``rewarded``."""
    return [name for name, part in PARTS.items() if part.rewards == rewarded and name in names]


def text_parts(names: Collection[str]) -> list[str]:
    """Those of ``names`` whose tokens are text."""
    return [name for name in names if PARTS[name].modality == "text"]
