"""The input pipeline: from a source of records and a transform to an endless iterator of batches.

The position of the iterator can be saved. Batch ``i`` is a pure function of ``(seed, i)``: it does
not depend on threads, on how often the program was restarted, or on the number of processes. A
transform gets the records of a whole batch, and a record is read when the transform indexes it.
In this way each process reads only its own rows.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, Protocol, SupportsIndex, TypeVar

import grain
import numpy as np

from corl_jax.core.checks.config_block import INT32_MAX
from corl_jax.core.errors import UserError, describe_error
from corl_jax.core.types import Record
from corl_jax.data.sources.base import RecordSource, SelectedRecords

T = TypeVar("T", covariant=True)

RowOrder = Callable[[int], Sequence[int] | np.ndarray]
"""The rows of a step: positions in a source. A pure function, since threads call it."""


class Transform(Protocol[T]):
    """Makes one batch from the records of a step. Must be pure, since threads call it.

    ``records`` reads a record when it is indexed; ``step`` counts batches from 0.
    """

    def __call__(self, records: Sequence[Record], step: int) -> T: ...


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
    """Endless batches, every epoch in a new order. An epoch drops the last, incomplete batch.

    Args:
      source: random access to the records.
      seed: seed of the order.
      batch_size: records per step over all processes.
      transform: called as ``transform(records, step)``.
      shuffle: whether to shuffle the records; if not, they come in the order of the source.
      threads, prefetch: how many threads prepare how many batches in advance. The batches do not
        depend on them.

    Returns:
      A Grain iterator. ``get_state`` and ``set_state`` save and restore its position, also through
      ``grain.checkpoint.CheckpointSave`` and ``CheckpointRestore``.

    Raises:
      UserError: the source is smaller than a batch.
    """
    if batch_size < 1 or len(source) < batch_size:
        raise UserError(
            f"batch size must be from 1 to {len(source)}, the number of records of the source; "
            f"got {batch_size}. Change it, or add records"
        )

    rows = _batches_of_rows(len(source), seed, batch_size, shuffle)
    read_options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
    make_batch = functools.partial(_make_batch, source, transform)
    return iter(rows.map_with_index(make_batch).to_iter_dataset(read_options))


def batches_in_order(
    source: RecordSource,
    order: RowOrder,
    *,
    transform: Transform[T],
    steps: range = range(INT32_MAX),
    threads: int = 2,
    prefetch: int = 4,
) -> grain.DatasetIterator[T]:
    """Batches of the rows that ``order`` names; the other arguments are those of ``batches``.

    Args:
      order: gives the rows of a step.
      steps: of which there are batches, one after another.
    """
    read_options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
    numbers = grain.MapDataset.range(steps.start, steps.stop)

    def make_batch(step: int) -> T:
        return _make_batch(source, transform, int(step), order(int(step)))

    return iter(numbers.map(make_batch).to_iter_dataset(read_options))


def _make_batch(
    source: RecordSource, transform: Transform[T], step: int, rows: Sequence[int] | np.ndarray
) -> T:
    # Nothing is read here; the transform indexes the records that it needs.
    records = SelectedRecords(source, tuple(map(int, rows)))
    try:
        return transform(records, step)
    except UserError:
        raise
    # This runs in a thread, whose error reaches the main thread without a place in the data.
    except Exception as error:
        raise UserError(
            f"the batch of step {step}, of the records at positions "
            f"{', '.join(map(str, records.rows[:8]))}{', ...' * (len(rows) > 8)}, cannot be made "
            f"({describe_error(error)}); with less memory, lower the prompts of a step"
        ) from error


def record_ids(
    source: RecordSource, *, seed: int, batch_size: int, step: int, shuffle: bool = True
) -> tuple[str, ...]:
    """Ids of the records of batch number ``step`` of ``batches`` with the same arguments."""
    rows = _batches_of_rows(len(source), seed, batch_size, shuffle)[step]
    return ids_of_rows(source, rows)


def ids_of_rows(source: RecordSource, rows: Iterable[SupportsIndex]) -> tuple[str, ...]:
    """Ids of the records at ``rows``."""
    return tuple(source[operator.index(row)].id for row in rows)


def _batches_of_rows(
    records: int, seed: int, batch_size: int, shuffle: bool
) -> grain.MapDataset[np.ndarray]:
    """Row numbers of the batches, by the number of the batch."""
    # Grain shuffles and batches row numbers only. Batches do not cross epochs: what does not fill a
    # batch is dropped before ``repeat`` starts the next epoch.
    dataset = grain.MapDataset.range(records).seed(seed)
    if shuffle:
        dataset = dataset.shuffle()
    return dataset.batch(batch_size, drop_remainder=True, batch_fn=np.asarray).repeat()


class PairWithNext(grain.DatasetIterator, Generic[T]):
    """Yields ``(batch, next_batch)`` for every batch. Its position is that of ``batch``."""

    def __init__(self, inner: grain.DatasetIterator[T]):
        super().__init__()
        self._inner: grain.DatasetIterator[T] = inner
        # The batch that was read in advance, with the position before it; empty at the start.
        self._read_ahead: list[tuple[T, Any]] = []

    def __next__(self) -> tuple[T, T]:
        batch = self._read_ahead.pop()[0] if self._read_ahead else next(self._inner)

        # The position is taken before the next batch is read: that batch is yielded again.
        position = self._inner.get_state()
        next_batch = next(self._inner)
        self._read_ahead.append((next_batch, position))
        return batch, next_batch

    def get_state(self) -> Any:
        """Position after the last yielded ``batch``, in the format of the inner iterator."""
        return self._read_ahead[0][1] if self._read_ahead else self._inner.get_state()

    def set_state(self, state: Any) -> None:
        """Moves to a position that ``get_state`` returned."""
        self._inner.set_state(state)
        # The batch that was read in advance belongs to the old position.
        self._read_ahead.clear()


def held_out_records(source: RecordSource, n: int, seed: int = 0) -> tuple[Record, ...]:
    """The first ``n`` records of an order that depends on ``seed`` only; used for evaluation.

    Raises:
      UserError: the source has fewer records.
    """
    # A prefix of one permutation, so that a larger ``n`` keeps the records of a smaller one.
    return tuple(source[row] for row in held_out_order(source, n, seed)[:n])


def held_out_order(source: RecordSource, n: int, seed: int = 0) -> list[int]:
    """All positions of ``source``, of which ``n`` are needed, in an order that depends on ``seed`` only.

    Raises:
      UserError: the source has fewer records.
    """
    if not 1 <= n <= len(source):
        raise UserError(
            f"the number of held-out records must be from 1 to {len(source)}, the number of "
            f"records of the source; got {n}. Lower it, or add records"
        )
    return np.random.default_rng(seed).permutation(len(source)).tolist()
