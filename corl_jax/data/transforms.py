"""What can be made of a batch of records without asking a task: one verb each. In: records; out: arrays."""

from __future__ import annotations

import dataclasses

import numpy as np

from corl_jax.core.types import Record
from corl_jax.data.images import preprocess


@dataclasses.dataclass(frozen=True)
class Keep:
    """Hands the records on as they are."""

    def __call__(self, records: tuple[Record, ...], step: int) -> tuple[Record, ...]:
        return records


@dataclasses.dataclass(frozen=True)
class StackPictures:
    """The pictures as one float32 array ``[B, image_size, image_size, 3]`` in [-1, 1]."""

    image_size: int

    def __call__(self, records: tuple[Record, ...], step: int) -> np.ndarray:
        return np.stack([preprocess(record.image, self.image_size) for record in records])
