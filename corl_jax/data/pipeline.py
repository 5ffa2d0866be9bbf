"""The input pipeline. In: a source of Records and a transform; out: an endless, savable iterator of batches.

Batch ``i`` is a pure function of ``(seed, i)``: it does not depend on threads, on how often the program was restarted,
or on the number of processes. A transform is handed the whole batch, of which it reads the rows that it looks at: that
is how each process reads its own rows alone.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar, overload

import grain
import numpy as np

from corl_jax.core.errors import UserError
from corl_jax.core.types import Record
from corl_jax.data.sources import RecordSource

T = TypeVar("T", covariant=True)


class Transform(Protocol[T]):
    """Makes one batch of the records of a step, read as they are looked at; ``step`` counts batches from 0.

    Pure, and called from threads.
    """

    def __call__(self, records: Sequence[Record], step: int) -> T: ...


@dataclasses.dataclass(frozen=True)
class Rows(Sequence[Record]):
    """Some rows of a source, each read when it is asked for."""

    source: RecordSource
    rows: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    def __getitem__(self, index: int | slice) -> Record | Rows:
        """One record, or some of the rows, still unread."""
        if isinstance(index, slice):
            return Rows(self.source, self.rows[index])
        return self.source[self.rows[index]]


def batches(
    source: RecordSource,
    *,
    seed: int,
    batch_size: int,
    transform: Transform[T],
    shuffle: bool = True,
    threads: int = 2,
    prefetch: int = 4,
) -> grain.DatasetIterator[T]:
    """Batches for ever, every epoch in a new order; what does not fill a batch waits for another epoch.

    Args:
      source: where records come from.
      seed: of the order.
      batch_size: records per step over all processes.
      transform: called as ``transform(records, step)``.
      shuffle: whether to mix the records; without, they come in the order of the source.
      threads, prefetch: how many threads prepare how many batches ahead; without effect on what comes out.

    Returns:
      A Grain iterator; ``get_state`` and ``set_state`` save and restore its position, also through
      ``grain.checkpoint.CheckpointSave`` and ``CheckpointRestore``.

    Raises:
      UserError: the source is smaller than a batch.
    """
    if batch_size < 1 or len(source) < batch_size:
        raise UserError(
            f"batch size {batch_size} does not fit a source of {len(source)} records; expected 1 to {len(source)}"
        )

    def read(step: int, rows: np.ndarray) -> T:
        return transform(Rows(source, tuple(map(int, rows))), step)

    order = grain.MapDataset.range(len(source)).seed(seed)
    if shuffle:
        order = order.shuffle()
    rows = order.batch(batch_size, drop_remainder=True, batch_fn=np.asarray).repeat()
    reading = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
    return iter(rows.map_with_index(read).to_iter_dataset(reading))


class PairWithNext(grain.DatasetIterator, Generic[T]):
    """Every batch together with the one after it; its position is that of the batch."""

    def __init__(self, inner: grain.DatasetIterator[T]):
        super().__init__()
        self._inner: grain.DatasetIterator[T] = inner
        self._read: list[tuple[T, Any]] = []  # at most one, and the position before it

    def __next__(self) -> tuple[T, T]:
        """A batch and the next."""
        batch = self._read.pop()[0] if self._read else next(self._inner)
        position = self._inner.get_state()
        self._read.append((next(self._inner), position))
        return batch, self._read[0][0]

    def get_state(self) -> Any:
        """As the inner iterator's, behind the newest batch."""
        return self._read[0][1] if self._read else self._inner.get_state()

    def set_state(self, state: Any) -> None:
        """Goes to where ``get_state`` was asked."""
        self._inner.set_state(state)
        self._read.clear()


def held_out_records(source: RecordSource, n: int, seed: int = 0) -> tuple[Record, ...]:
    """The first ``n`` records of an order that depends on ``seed`` alone; for evaluation.

    Raises:
      UserError: the source has fewer records.
    """
    if not 1 <= n <= len(source):
        raise UserError(
            f"cannot take {n} records of a source of {len(source)}; expected 1 to {len(source)}"
        )
    order = np.random.default_rng(seed).permutation(len(source))
    return tuple(source[operator.index(row)] for row in order[:n])
