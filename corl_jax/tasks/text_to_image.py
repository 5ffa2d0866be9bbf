"""The image task: from a caption to an image."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from corl_jax.core.types import Completion, PromptBatch, Record, Rollout
from corl_jax.data.plans import opening_width
from corl_jax.data.records import TASK_FIELDS, require
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.tasks.base import check_length, errors_name, pad_prompts


@dataclasses.dataclass(frozen=True)
class TextToImage:
    """Requests an image of the record's caption.

    Attributes:
      tokenizer: text tokenizer.
      prompt_length: fixed width in tokens, or None for the next multiple of 8.
      length_key: what a config calls that width, for errors.
      has_plan: whether the prompts end where plans begin, see ``data.plans``. What follows a plan has
        its place within the width.
    """

    tokenizer: TextTokenizer
    prompt_length: int | None = None
    length_key: str = ""
    has_plan: bool = False

    def prompt_ids(self, record: Record) -> list[int]:
        """Token ids that end in begin of image, or where a plan begins.

        Raises:
          UserError: the caption is empty, too long, or has special tokens or unknown words.
        """
        with errors_name(record):
            if self.has_plan:
                ids, ending = self.tokenizer.plan_opening(record.prompt), self.tokenizer.plan_ending
            else:
                ids, ending = self.tokenizer.image_generation_prompt(record.prompt), ()
        check_length([*ids, *ending], self.prompt_length, record, "prompt", self.length_key)
        return ids

    def check_record(self, record: Record) -> None:
        """Raises UserError about a record that cannot be a prompt."""
        require(record, "the image task", TASK_FIELDS["image"])
        self.prompt_ids(record)

    def make_prompts(self, records: Sequence[Record]) -> PromptBatch:
        """Prompts of the captions."""
        rows = [self.prompt_ids(record) for record in records]
        length = self.prompt_length
        if self.has_plan and length is None:
            length = opening_width(rows, self.tokenizer)
        prompts = pad_prompts(rows, self.tokenizer, length)
        return PromptBatch(prompts, tuple(records))

    def to_completions(self, prompt_batch: PromptBatch, rollout: Rollout) -> list[Completion]:
        """The images of a rollout with their records."""
        # Prompt by prompt, and within a prompt sample by sample.
        images_BGHWC = np.asarray(rollout.pixels)
        return [
            Completion(record, pixels=image)
            for record, group_images in zip(prompt_batch.records, images_BGHWC, strict=True)
            for image in group_images
        ]
