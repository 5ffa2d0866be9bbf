"""Images that worker processes decode and resize while a step runs.

A batch needs squares of its images; few rewards look at the whole image. So a record keeps its image
as it is stored, workers make the squares, and the whole image is decoded if it is looked at.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import SupportsIndex

import numpy as np
from jaxtyping import UInt8

from corl_jax.core.errors import UserError
from corl_jax.core.types import Record
from corl_jax.core.workers.pool import WorkerPool, shared_pool
from corl_jax.data.image_files import ImageInput
from corl_jax.data.records import image_of
from corl_jax.data.sources.base import CompositeSource, DescribedSource, RecordSource

Resize = Callable[[ImageInput, int], UInt8[np.ndarray, "S S 3"]]
"""``images.pad_to_square`` or ``images.crop_to_square``."""


@dataclasses.dataclass(frozen=True)
class StoredImage:
    """The image of a record in a source, undecoded.

    Attributes:
      source: of the record.
      row: its position.
      pool: of the workers.
    """

    source: DescribedSource
    row: int
    pool: WorkerPool


class StoredImageRecord(Record):
    """A record whose image is decoded when it is looked at, and then kept."""

    stored: StoredImage

    @classmethod
    def of(cls, record: Record, stored: StoredImage) -> StoredImageRecord:
        """``record``, whose image may be a placeholder, with the image ``stored``."""
        # The fields of a frozen dataclass are set as its own ``__init__`` sets them. The image is
        # left out: ``image`` below fills it in.
        new = object.__new__(cls)
        for name, value in vars(record).items():
            if name != "image":
                object.__setattr__(new, name, value)
        object.__setattr__(new, "stored", stored)
        return new

    @functools.cached_property
    def image(self) -> np.ndarray | None:  # type: ignore[override]
        """The whole image, uint8 ``[H, W, 3]``; None if the record has none."""
        return self.stored.source[self.stored.row].image


@dataclasses.dataclass(frozen=True)
class WorkerSource:
    """The records of ``source``, whose images the workers of ``pool`` read."""

    source: DescribedSource
    pool: WorkerPool

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: SupportsIndex) -> Record:
        row = operator.index(index)
        if row in self.source.unreadable or not 0 <= row < len(self):
            return self.source[row]
        record = self.source.text_record(row)
        if record.image is None:
            return record
        return StoredImageRecord.of(record, StoredImage(self.source, row, self.pool))


def with_workers(source: RecordSource, workers: int) -> RecordSource:
    """``source`` with its images read by worker processes, if they are files of the user.

    Images of the embedded world are tiny and kept in memory.

    Args:
      source: of the records of a run; its records stay the same.
      workers: number of the processes; 0 for none.
    """
    if not workers:
        return source
    if isinstance(source, CompositeSource):
        return source.with_sources(lambda part: with_workers(part, workers))
    if isinstance(source, DescribedSource) and source.has_image_files:
        return WorkerSource(source, shared_pool(workers))
    return source


def resize_images(
    records: Sequence[Record], resize: Resize, image_size: int
) -> UInt8[np.ndarray, "B S S 3"]:
    """``resize(record.image, image_size)`` of all records; their workers do it all at once."""
    waiting = [_start(record, resize, image_size) for record in records]
    return np.stack([wait() for wait in waiting])


def _start(record: Record, resize: Resize, image_size: int) -> Callable[[], np.ndarray]:
    """Lets a worker resize the image if the record has one; the result waits for it."""
    # A copy of such a record (``dataclasses.replace``) has its image.
    if not isinstance(record, StoredImageRecord) or "image" in vars(record):
        return lambda: resize(image_of(record), image_size)

    stored = record.stored
    data = stored.source.image_bytes(stored.row)
    if data is None:
        return lambda: resize(image_of(record), image_size)
    square = stored.pool.submit(resize, data, image_size)

    def wait() -> np.ndarray:
        try:
            return square.result()
        except UserError:
            # Its source knows where the image is, and says what can be done.
            return resize(image_of(stored.source[stored.row]), image_size)

    return wait
