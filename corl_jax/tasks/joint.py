"""Prompts of both tasks from the same records, for reinforcement learning."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from corl_jax.core.errors import UserError
from corl_jax.core.types import PromptBatch, Record
from corl_jax.tasks.base import Task
from corl_jax.tasks.planning import Planning
from corl_jax.tasks.self_check import SelfCheck
from corl_jax.tasks.text_to_image import TextToImage
from corl_jax.tasks.visual_qa import VisualQA


@dataclasses.dataclass(frozen=True)
class JointPrompts:
    """Makes the prompts of a step: a transform from records to one ``PromptBatch`` per task.

    Images that are planned have another one, of the requests for plans, ``plan``; images that the
    policy is asked about one of the questions, ``check``.

    Row ``i`` of both tasks is the same record, so that their rewards can be paired, unless there is
    a ``text_offset``.

    Attributes:
      text_to_image: the image task.
      visual_qa: the text task.
      image_prompts: the first so many records of a batch become image prompts; 0 for no image task.
      text_prompts: so many records, from ``text_offset`` on, become text prompts; 0 for no text task.
      local_row_ids: maps the number of rows of a step to the row ids of this process, in order. It
        may repeat a row.
      text_offset: number of the first record of the text task; above 0 the tasks have records of
        their own.
      alternate_every: 0 for both tasks in every step. Otherwise a step has one task: so many steps
        the image task, then as many the text task, and again.
      planning: of images that are drawn behind plans; None for no plans.
      self_check: of questions about images that were drawn; None for no questions.
      local_question_ids: maps the number of those questions to the numbers that this process asks.
      checked_samples: such questions per prompt, one for each image.
      checked_prompts: the first so many image prompts have such questions.

    Raises:
      UserError: a negative number of prompts, or no prompts at all.
    """

    text_to_image: TextToImage
    visual_qa: VisualQA
    image_prompts: int
    text_prompts: int
    local_row_ids: Callable[[int], Sequence[int]] = range
    alternate_every: int = 0
    text_offset: int = 0
    planning: Planning | None = None
    self_check: SelfCheck | None = None
    local_question_ids: Callable[[int], Sequence[int]] = range
    checked_samples: int = 0
    checked_prompts: int = 0

    def __post_init__(self):
        # Without prompts there is nothing to train on.
        counts = (self.image_prompts, self.text_prompts)
        if min(counts) < 0 or sum(counts) == 0:
            raise UserError(
                f"a step must have image prompts or text prompts; got {self.image_prompts} and "
                f"{self.text_prompts}. Raise one of them"
            )

    @property
    def batch_size(self) -> int:
        """Records per step."""
        # The task with fewer prompts uses the first records of the other's.
        return max(self.image_prompts, self.text_offset + self.text_prompts)

    def __call__(self, records: Sequence[Record], step: int) -> dict[str, PromptBatch]:
        counts = {"image": self.image_prompts, "text": self.text_prompts}
        # Blocks of steps take turns, the image task first.
        if self.alternate_every:
            idle_task = ("text", "image")[step // self.alternate_every % 2]
            counts[idle_task] = 0

        # The keys are the names of the tasks in configs and metrics.
        tasks: dict[str, Task] = {"image": self.text_to_image, "text": self.visual_qa}
        prompts = {}
        for name, count in counts.items():
            if count:
                # Only the rows of this process are read.
                offset = self.text_offset if name == "text" else 0
                local_records = [records[offset + i] for i in self.local_row_ids(count)]
                prompts[name] = tasks[name].make_prompts(local_records)
                if name == "image" and self.planning is not None:
                    prompts["plan"] = self.planning.make_prompts(local_records)
                if name == "image" and self.self_check is not None:
                    prompts["check"] = self.self_check.make_prompts(self._checked(records))
        return prompts

    def _checked(self, records: Sequence[Record]) -> list[Record]:
        """The record of each question of this process about an image."""
        rows = self.local_question_ids(self.checked_prompts * self.checked_samples)
        return [records[row // self.checked_samples] for row in rows]
