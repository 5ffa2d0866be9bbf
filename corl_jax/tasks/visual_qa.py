"""Picture and question to answer. In: records; out: question prompts, and texts with their records."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from corl_jax.core.types import Completion, PromptBatch, Record, Rollout
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.tasks.base import as_prompts, stack_pictures


@dataclasses.dataclass(frozen=True)
class VisualQA:
    """Asks the record's question about its picture; options of multiple choice are part of the question's text.

    Attributes:
      tokenizer: text tokenizer.
      image_tokens: placeholders per picture (``S``).
      image_size: side of the prepared picture in pixels.
      prompt_length: fixed width, or None for the next multiple of 8.
    """

    tokenizer: TextTokenizer
    image_tokens: int
    image_size: int
    prompt_length: int | None = None

    def ask(self, records: Sequence[Record]) -> PromptBatch:
        """Prompts with one picture each."""
        rows = [
            self.tokenizer.question_prompt(record.question, self.image_tokens) for record in records
        ]
        pictures = stack_pictures(records, self.image_size)
        return PromptBatch(
            as_prompts(rows, self.tokenizer, self.prompt_length, pictures), tuple(records)
        )

    def read_back(self, asked: PromptBatch, rollout: Rollout) -> list[Completion]:
        """Texts up to the end token."""
        tokens, mask = np.asarray(rollout.tokens), np.asarray(rollout.mask)
        return [
            Completion(record, text=self.tokenizer.decode(row[seen]))
            for record, group, masks in zip(asked.records, tokens, mask, strict=True)
            for row, seen in zip(group, masks, strict=True)
        ]
