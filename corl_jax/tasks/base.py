"""The protocol of a task, and helpers that turn token rows and images into ``Prompts``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from corl_jax.core.types import Completion, PromptBatch, Prompts, Record, Rollout
from corl_jax.data.images import preprocess, preprocess_target
from corl_jax.data.text_tokenizer import TextTokenizer, left_pad


class Task(Protocol):
    """A task: text to image, or visual question answering."""

    def make_prompts(self, records: Sequence[Record]) -> PromptBatch:
        """One prompt for each of ``B`` records."""
        ...

    def to_completions(self, prompt_batch: PromptBatch, rollout: Rollout) -> list[Completion]:
        """``N = B * G`` completions with their records; samples of a record are adjacent."""
        ...


def pad_prompts(
    rows: Sequence[Sequence[int]],
    tokenizer: TextTokenizer,
    length: int | None,
    images: np.ndarray | None = None,
) -> Prompts:
    """Left-pads rows of token ids to ``length``, or to the next multiple of 8 if it is None."""
    # A fixed length keeps the shapes, so that a step compiles once.
    tokens, mask = left_pad(rows, tokenizer.pad_id, length=length)
    return Prompts(tokens, mask, images)


def stack_images(records: Sequence[Record], image_size: int) -> np.ndarray:
    """Images of ``records`` for the vision tower: float32 ``[B, H, W, 3]`` in [-1, 1]."""
    return np.stack([preprocess(record.image, image_size) for record in records])


def stack_target_images(records: Sequence[Record], image_size: int) -> np.ndarray:
    """Images of ``records`` that are to be drawn: float32 ``[B, H, W, 3]`` in [-1, 1], cropped."""
    return np.stack([preprocess_target(record.image, image_size) for record in records])
