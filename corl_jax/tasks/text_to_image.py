"""Caption to picture. In: records; out: drawing prompts, and pictures with their records."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from corl_jax.core.types import Completion, PromptBatch, Record, Rollout
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.tasks.base import as_prompts


@dataclasses.dataclass(frozen=True)
class TextToImage:
    """Asks for a picture of the caption. ``prompt_length``: fixed width, or None for the next multiple of 8."""

    tokenizer: TextTokenizer
    prompt_length: int | None = None

    def ask(self, records: Sequence[Record]) -> PromptBatch:
        """Prompts that end in the begin-of-image token."""
        rows = [self.tokenizer.drawing_prompt(record.prompt) for record in records]
        return PromptBatch(as_prompts(rows, self.tokenizer, self.prompt_length), tuple(records))

    def read_back(self, asked: PromptBatch, rollout: Rollout) -> list[Completion]:
        """Pictures."""
        pixels = np.asarray(rollout.pixels)
        return [
            Completion(record, pixels=picture)
            for record, group in zip(asked.records, pixels, strict=True)
            for picture in group
        ]
