"""What every task does, and how prompts become arrays. In: records; out: ``PromptBatch``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from corl_jax.core.types import Completion, PromptBatch, Prompts, Record, Rollout
from corl_jax.data.images import preprocess
from corl_jax.data.text_tokenizer import TextTokenizer, left_pad


class Task(Protocol):
    """One way of asking."""

    def ask(self, records: Sequence[Record]) -> PromptBatch:
        """Prompts for ``records``, one row each."""
        ...

    def read_back(self, asked: PromptBatch, rollout: Rollout) -> list[Completion]:
        """``N = B * G`` completions, the ``G`` samples of a record side by side."""
        ...


def as_prompts(
    rows: Sequence[Sequence[int]],
    tokenizer: TextTokenizer,
    length: int | None,
    images: np.ndarray | None = None,
) -> Prompts:
    """Left-padded prompts of a fixed ``length``, or of the next multiple of 8."""
    tokens, mask = left_pad(rows, tokenizer.pad_id, length=length)
    return Prompts(tokens, mask, images)


def stack_pictures(records: Sequence[Record], image_size: int) -> np.ndarray:
    """Pictures of ``records``, prepared for understanding: float32 ``[B, H, W, 3]`` in [-1, 1]."""
    return np.stack([preprocess(record.image, image_size) for record in records])
