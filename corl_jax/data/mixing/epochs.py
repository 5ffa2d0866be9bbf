"""Epochs of the parts of a mixture whose records change from epoch to epoch.

An epoch is known when it begins. So are the rows of all steps up to the end of the first epoch that
ends: a segment, within which batches can be prepared in advance.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from corl_jax.core.errors import UserError
from corl_jax.data.mixing.quotas import Quotas
from corl_jax.data.mixing.row_order import shuffled


@dataclasses.dataclass(frozen=True)
class Segment:
    """Steps from the start of some part's epoch to the end of some part's epoch.

    Attributes:
      start, stop: its first step, and the first one after it.
      epochs: per part the number of its epoch.
      used: per part how many rows of the epoch the steps before ``start`` have had.
      rows: per part the positions of its records in the mixture, in the order of the epoch.
      before: per part how many rows of the run the steps before ``start`` have had.
      in_epoch: bool ``[records]``, the records that the epochs of all parts have.
    """

    start: int
    stop: int
    epochs: tuple[int, ...]
    used: tuple[int, ...]
    rows: tuple[np.ndarray, ...]
    before: tuple[int, ...]
    in_epoch: np.ndarray

    def rows_of(self, quotas: Quotas, step: int) -> np.ndarray:
        """Positions of the records of a step."""
        return np.array(
            [
                self.rows[part][self.used[part] + number - self.before[part]]
                for part, number in quotas.parts_and_numbers(step)
            ],
            np.int64,
        )


@dataclasses.dataclass(frozen=True)
class Epochs:
    """Makes segments, each from the one before it and from the outcomes by then.

    Attributes:
      names: of the parts.
      offsets: position of the first record of each part, and the number of records.
      quotas: how many of the rows each part has.
      seed: of the order.
    """

    names: tuple[str, ...]
    offsets: tuple[int, ...]
    quotas: Quotas
    seed: int

    def first(self) -> Segment:
        """The segment of step 0, in which every record is in the epoch."""
        parts = len(self.names)
        return self.segment(0, (0,) * parts, (0,) * parts, np.ones(self.offsets[-1], bool))

    def next(self, segment: Segment, unsolved: np.ndarray) -> Segment:
        """The segment after ``segment``: parts that had all their rows begin a new epoch.

        The last rows of an epoch are dropped where they are fewer than a step needs. An epoch of
        fewer unsolved records than a step needs has all records of its part again.
        """
        start, in_epoch = segment.stop, segment.in_epoch.copy()
        epochs, used = list(segment.epochs), list(segment.used)
        counts, after = self.quotas.counts(start * self._rows), self._counts_after(start)
        for part, name in enumerate(self.names):
            used[part] += counts[part] - segment.before[part]
            needed = after[part] - counts[part]
            if used[part] + needed <= len(segment.rows[part]):
                continue
            of_part = slice(self.offsets[part], self.offsets[part + 1])
            if needed > self.offsets[part + 1] - self.offsets[part]:
                raise UserError(
                    f"config.data.mixture.{name} must have at least {needed} records, as many as "
                    f"step {start + 1} needs; got {self.offsets[part + 1] - self.offsets[part]}. "
                    "Add records, or lower its weight"
                )
            epochs[part], used[part] = epochs[part] + 1, 0
            left = unsolved[of_part]
            in_epoch[of_part] = left if left.sum() >= needed else True
        return self.segment(start, tuple(epochs), tuple(used), in_epoch)

    def segment(
        self, start: int, epochs: tuple[int, ...], used: tuple[int, ...], in_epoch: np.ndarray
    ) -> Segment:
        """A segment from what a position has of it."""
        rows = []
        for part, (name, epoch) in enumerate(zip(self.names, epochs, strict=True)):
            low, high = self.offsets[part], self.offsets[part + 1]
            positions = low + np.flatnonzero(in_epoch[low:high])
            order = shuffled(len(positions), self.seed, f"{name}/{epoch}")
            rows.append(positions[[int(order[i]) for i in range(len(positions))]])

        # Forward to the first step that needs more than some epoch has.
        before, stop = self.quotas.counts(start * self._rows), start
        while all(
            used[part] + count - before[part] <= len(rows[part])
            for part, count in enumerate(self._counts_after(stop))
        ):
            stop += 1
        return Segment(start, stop, epochs, used, tuple(rows), before, in_epoch)

    @property
    def _rows(self) -> int:
        return self.quotas.batch_size

    def _counts_after(self, step: int) -> tuple[int, ...]:
        """Rows of each part up to the end of a step."""
        return self.quotas.counts((step + 1) * self._rows)
