"""The same records asked both ways, for reinforcement learning. In: records; out: one ``PromptBatch`` per task."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from corl_jax.core.errors import UserError
from corl_jax.core.types import PromptBatch, Record
from corl_jax.tasks.base import Task
from corl_jax.tasks.text_to_image import TextToImage
from corl_jax.tasks.visual_qa import VisualQA


@dataclasses.dataclass(frozen=True)
class Joint:
    """Asks the first ``pictures`` records of a batch for pictures and the first ``questions`` for answers.

    Row ``i`` of both tasks is the same record, so that their rewards can be paired; 0 leaves a task out. ``share``
    tells which of so many records this process asks, in order; it may name one several times. With ``alternate`` a step
    asks one task alone: so many steps pictures, then as many answers, and again; 0 asks both at every step.
    """

    drawing: TextToImage
    asking: VisualQA
    pictures: int
    questions: int
    share: Callable[[int], Sequence[int]] = range
    alternate: int = 0

    def __post_init__(self):
        if self.pictures < 0 or self.questions < 0 or self.pictures + self.questions == 0:
            raise UserError(
                f"{self.pictures} prompts and {self.questions} questions a step leave nothing to train on"
            )

    @property
    def batch_size(self) -> int:
        """Records that one step reads."""
        return max(self.pictures, self.questions)

    def __call__(self, records: Sequence[Record], step: int) -> dict[str, PromptBatch]:
        counts = {"image": self.pictures, "text": self.questions}
        if self.alternate:
            idle = ("text", "image")[step // self.alternate % 2]
            counts[idle] = 0
        tasks: dict[str, Task] = {"image": self.drawing, "text": self.asking}
        return {
            name: tasks[name].ask([records[i] for i in self.share(count)])
            for name, count in counts.items()
            if count
        }
