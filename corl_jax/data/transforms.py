"""What can be made of a batch of records without asking a task: one verb each. In: records; out: arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from corl_jax.core.types import Record
from corl_jax.data.images import preprocess


@dataclasses.dataclass(frozen=True)
class PassThrough:
    """Hands the records on as they are."""

    def __call__(self, records: Sequence[Record], step: int) -> tuple[Record, ...]:
        return tuple(records)


@dataclasses.dataclass(frozen=True)
class StackPictures:
    """The pictures as one float32 array ``[B, image_size, image_size, 3]`` in [-1, 1].

    Attributes:
      image_size: side in pixels.
      share: from the number of rows in a step to those of this process.
    """

    image_size: int
    share: Callable[[int], Sequence[int]] = range

    def __call__(self, records: Sequence[Record], step: int) -> np.ndarray:
        return np.stack(
            [preprocess(records[i].image, self.image_size) for i in self.share(len(records))]
        )
