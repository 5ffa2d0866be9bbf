"""The text task: from a question, and most often an image, to an answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from corl_jax.core.types import Completion, PromptBatch, Record, Rollout
from corl_jax.data.question_templates import fill_in_question, tells_caption
from corl_jax.data.records import TASK_FIELDS, TASK_FIELDS_IN_WORDS, require
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.tasks.base import (
    check_length,
    errors_name,
    pad_prompts,
    stack_images,
    to_text_completions,
)


@dataclasses.dataclass(frozen=True)
class VisualQA:
    """Asks the record's question about its image or in words alone, in the record's template.

    The question includes the options of multiple choice.

    Attributes:
      tokenizer: text tokenizer.
      image_tokens: placeholders per image (``S``).
      image_size: side of the preprocessed image in pixels.
      prompt_length: fixed width in tokens, or None for the next multiple of 8.
      length_key: what a config calls that width, for errors.
      with_pictures: whether a question is asked about the record's image; if not, prompts have no
        images, and records need none.
    """

    tokenizer: TextTokenizer
    image_tokens: int
    image_size: int
    prompt_length: int | None = None
    length_key: str = ""
    with_pictures: bool = True

    def prompt_ids(self, record: Record) -> list[int]:
        """Token ids of the question, with one placeholder per image token where it has an image.

        Raises:
          UserError: the question is empty, too long, or has special tokens or unknown words.
        """
        # The vision tower fills the placeholders in.
        question = fill_in_question(record)
        with errors_name(record):
            if self.with_pictures:
                ids = self.tokenizer.question_prompt(question, self.image_tokens)
            else:
                ids = self.tokenizer.content_prompt(question, 0, self.image_tokens)
        check_length(ids, self.prompt_length, record, "question", self.length_key)
        return ids

    def check_record(self, record: Record) -> None:
        """Raises UserError about a record whose question cannot be asked."""
        fields = TASK_FIELDS if self.with_pictures else TASK_FIELDS_IN_WORDS
        require(record, "the text task", fields["text"])
        if tells_caption(record):
            require(record, "the template of its question", ("prompt",))
        self.prompt_ids(record)

    def make_prompts(self, records: Sequence[Record]) -> PromptBatch:
        """Prompts with one image each, or none at all."""
        rows = [self.prompt_ids(record) for record in records]
        images = stack_images(records, self.image_size) if self.with_pictures else None
        prompts = pad_prompts(rows, self.tokenizer, self.prompt_length, images)
        return PromptBatch(prompts, tuple(records))

    def to_completions(self, prompt_batch: PromptBatch, rollout: Rollout) -> list[Completion]:
        """The answers of a rollout, up to the end token, with their records."""
        return to_text_completions(self.tokenizer, prompt_batch, rollout)
