"""Transforms that need no task: from the records of a batch to records or arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from corl_jax.core.types import Record
from corl_jax.data.images import crop_to_square, to_float
from corl_jax.data.worker_images import resize_images


@dataclasses.dataclass(frozen=True)
class PassThrough:
    """Returns the records themselves, all of them read."""

    def __call__(self, records: Sequence[Record], step: int) -> tuple[Record, ...]:
        return tuple(records)


@dataclasses.dataclass(frozen=True)
class StackImages:
    """The images as targets, float32 ``[B, image_size, image_size, 3]`` in [-1, 1], cropped.

    Attributes:
      image_size: side in pixels.
      local_row_ids: maps the number of rows of a batch to the row ids of this process.
    """

    image_size: int
    local_row_ids: Callable[[int], Sequence[int]] = range

    def __call__(self, records: Sequence[Record], step: int) -> np.ndarray:
        # Indexing a record reads it, so only the rows of this process are indexed.
        local_records = [records[i] for i in self.local_row_ids(len(records))]
        return to_float(resize_images(local_records, crop_to_square, self.image_size))
