"""History resampling: records whose samples all succeeded are left out of the next epoch.

SRPO (arXiv 2504.14286): the records of the next epoch are those with mixed outcomes, and those
without any success, which may become solvable. A record that is left out stays out.

Which records an epoch has depends on the steps before it, so batches are prepared in advance only
up to the end of an epoch. Outcomes and the epoch are part of the position, and so of checkpoints.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import grain
import numpy as np

from corl_jax.core.errors import UserError
from corl_jax.data.mixing.epochs import Epochs
from corl_jax.data.pipeline import Transform, batches_in_order
from corl_jax.data.sources.base import RecordSource

T = TypeVar("T")

UNKNOWN = 255
"""Outcome of a record that was not sampled yet."""
ALL = 100
"""Outcome of a record all of whose samples succeeded."""


class Outcomes:
    """What came of each record when it was sampled last.

    Attributes:
      percent: uint8 ``[records]``, share of the samples that succeeded in percent, rounded down;
        ``UNKNOWN`` where there were none.
    """

    def __init__(self, records: int):
        self.percent = np.full(records, UNKNOWN, np.uint8)

    def add(self, rows: Sequence[int] | np.ndarray, shares: np.ndarray) -> None:
        """Notes shares of success, from 0 to 1, of the records at ``rows``."""
        self.percent[np.asarray(rows)] = np.floor(np.asarray(shares) * ALL).astype(np.uint8)

    @property
    def unsolved(self) -> np.ndarray:
        """Bool ``[records]``: those that the next epoch has."""
        return self.percent != ALL


class HistoryIterator(grain.DatasetIterator[T]):
    """Endless batches of the records that are not solved yet.

    Attributes:
      outcomes: to add to after each step, before the next batch is asked for.
    """

    def __init__(self, source: RecordSource, epochs: Epochs, transform: Transform[T]):
        super().__init__()
        self._source, self._epochs, self._transform = source, epochs, transform
        self.outcomes = Outcomes(len(source))
        self._step, self._segment = 0, epochs.first()
        if self._segment.stop == 0:
            self._segment = epochs.next(self._segment, self.outcomes.unsolved)
        self._inner = self._open()
        # The loop asks for the records of a step after it has begun the next one.
        self._recent_rows: dict[int, np.ndarray] = {}

    def __next__(self) -> T:
        if self._step == self._segment.stop:
            self._segment = self._epochs.next(self._segment, self.outcomes.unsolved)
            self._inner = self._open()
        batch = next(self._inner)
        self._recent_rows[self._step] = self._rows_of(self._step)
        self._recent_rows.pop(self._step - 2, None)
        self._step += 1
        return batch

    def rows(self, step: int) -> np.ndarray:
        """Positions of the records of one of the two newest batches."""
        return self._recent_rows[step]

    @property
    def epoch(self) -> int:
        """Epochs that are done, of the part that has done most."""
        return max(self._segment.epochs)

    @property
    def share_in_epoch(self) -> float:
        """Share of all records that the epochs of today have."""
        return float(self._segment.in_epoch.mean())

    def get_state(self) -> dict[str, Any]:
        """Position and outcomes as JSON."""
        segment = self._segment
        return {
            "next_index": self._step,
            "start": segment.start,
            "epochs": list(segment.epochs),
            "used": list(segment.used),
            "in_epoch": _to_text(np.packbits(segment.in_epoch)),
            "outcomes": _to_text(self.outcomes.percent),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Moves to a position that ``get_state`` returned.

        Raises:
          UserError: it is of another number of records.
        """
        records = len(self._source)
        percent = _from_text(state["outcomes"])
        if len(percent) != records:
            raise UserError(
                f"config.rl.curriculum.history must go on with the {len(percent)} records whose "
                f"outcomes the checkpoint has; got {records}. Bring them back, or choose another "
                "--workdir"
            )
        self.outcomes.percent = percent
        in_epoch = np.unpackbits(_from_text(state["in_epoch"]))[:records].astype(bool)
        self._segment = self._epochs.segment(
            state["start"], tuple(state["epochs"]), tuple(state["used"]), in_epoch
        )
        self._step = state["next_index"]
        self._inner = self._open()
        self._recent_rows.clear()

    def _rows_of(self, step: int) -> np.ndarray:
        return self._segment.rows_of(self._epochs.quotas, step)

    def _open(self) -> grain.DatasetIterator[T]:
        """Batches from the current step to the end of the segment."""
        segment, quotas = self._segment, self._epochs.quotas
        return batches_in_order(
            self._source,
            lambda step: segment.rows_of(quotas, step),
            transform=self._transform,
            steps=range(self._step, segment.stop),
        )


def _to_text(values: np.ndarray) -> str:
    """uint8 ``[N]`` as text."""
    return base64.b64encode(zlib.compress(values.tobytes())).decode()


def _from_text(text: str) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).copy()
