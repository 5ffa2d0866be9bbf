"""The protocol of a task, and helpers that turn token rows and images into ``Prompts``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from corl_jax.core.errors import UserError
from corl_jax.core.types import Completion, PromptBatch, Prompts, Record, Rollout
from corl_jax.data.images import crop_to_square, pad_to_square, to_float
from corl_jax.data.records import TextTooLong, record_label
from corl_jax.data.text_tokenizer import TextTokenizer, left_pad, truncated_rows
from corl_jax.data.worker_images import resize_images


class Task(Protocol):
    """A task: text to image, or visual question answering."""

    def prompt_ids(self, record: Record) -> list[int]:
        """Token ids of the prompt of ``record``.

        Raises:
          UserError: its text cannot be a prompt; the error names the record.
        """
        ...

    def check_record(self, record: Record) -> None:
        """Checks that a record has what the task needs, and that it can be a prompt.

        Args:
          record: its image may be a placeholder, but is None only if it has none.

        Raises:
          UserError: it lacks something, or ``prompt_ids`` refuses it.
        """
        ...

    def make_prompts(self, records: Sequence[Record]) -> PromptBatch:
        """One prompt for each of ``B`` records."""
        ...

    def to_completions(self, prompt_batch: PromptBatch, rollout: Rollout) -> list[Completion]:
        """``N = B * G`` completions with their records; samples of a record are adjacent."""
        ...


@contextlib.contextmanager
def errors_name(record: Record) -> Iterator[None]:
    """Errors about a text within the block name the record that has it."""
    try:
        yield
    except TextTooLong:
        raise
    except UserError as error:
        raise UserError(f"{record_label(record)}: {error}") from error


def check_length(
    ids: Sequence[int], length: int | None, record: Record, what: str, key: str
) -> None:
    """Checks that a text of ``record`` fits its width.

    Args:
      ids: its tokens.
      length: the width; None for any.
      what: the text is, for the error.
      key: of the width in a config, or "".

    Raises:
      TextTooLong: it does not.
    """
    if length is None or len(ids) <= length:
        return
    # Widths that are multiples of 8 suit accelerators.
    problem = f"its {what} has {len(ids)} tokens, at most {length} are allowed"
    raise TextTooLong(f"{record_label(record)}: {problem}", key, -(-len(ids) // 8) * 8)


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
    return to_float(resize_images(records, pad_to_square, image_size))


def stack_target_images(records: Sequence[Record], image_size: int) -> np.ndarray:
    """Images of ``records`` that are to be drawn: float32 ``[B, H, W, 3]`` in [-1, 1], cropped."""
    return to_float(resize_images(records, crop_to_square, image_size))


def to_text_completions(
    tokenizer: TextTokenizer, prompt_batch: PromptBatch, rollout: Rollout
) -> list[Completion]:
    """The texts of a rollout ``[B, G, T]``, up to the end token, with their records."""
    tokens_BGT = np.asarray(rollout.tokens)
    mask_BGT = np.asarray(rollout.mask)
    truncated_BG = truncated_rows(tokens_BGT, tokenizer.eos_id)

    # Prompt by prompt, and within a prompt sample by sample.
    completions = []
    groups = zip(prompt_batch.records, tokens_BGT, mask_BGT, truncated_BG, strict=True)
    for record, *group in groups:
        for tokens, mask, is_truncated in zip(*group, strict=True):
            # The mask ends with the end token; what is behind it was never sampled.
            text = tokenizer.decode(tokens[mask])
            completions.append(
                Completion(
                    record,
                    text=text,
                    is_truncated=bool(is_truncated),
                    length=int(mask.sum()),
                    max_length=len(mask),
                )
            )
    return completions
