"""Several sets of records as one source, which knows whose a position is."""

from __future__ import annotations

import bisect
import dataclasses
import hashlib
import itertools
import operator
from collections.abc import Callable, Sequence
from typing import SupportsIndex

from corl_jax.core.types import Record
from corl_jax.data.sources.base import FingerprintedSource, RecordSource, SelectedRecords


@dataclasses.dataclass(frozen=True)
class Part:
    """One set of records in a mixture.

    Attributes:
      name: in the mixture; it is put before the ids of its records.
      records: those that training may use.
    """

    name: str
    records: RecordSource


class Mixture:
    """The records of all parts, one part after another.

    Attributes:
      parts: at least one.
      offsets: position of the first record of each part, and behind them the number of records.
    """

    def __init__(self, parts: Sequence[Part]):
        self.parts = tuple(parts)
        lengths = (len(part.records) for part in self.parts)
        self.offsets = (0, *itertools.accumulate(lengths))

    def __len__(self) -> int:
        return self.offsets[-1]

    def __getitem__(self, index: SupportsIndex) -> Record:
        position = operator.index(index)
        if not 0 <= position < len(self):
            raise IndexError(f"record {position} of {len(self)}")
        number = bisect.bisect_right(self.offsets, position) - 1
        part = self.parts[number]
        record = part.records[position - self.offsets[number]]
        # Ids are unique within a part only.
        return record.with_id(f"{part.name}/{record.id}")

    def with_sources(self, change: Callable[[RecordSource], RecordSource]) -> Mixture:
        """The same records, read from changed sources."""
        return Mixture([Part(part.name, change(part.records)) for part in self.parts])

    def fingerprint(self) -> str:
        """Changes when the records of a part do, or the parts."""
        parts = [f"{part.name} {fingerprint_of(part.records)}" for part in self.parts]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def whole_source(records: RecordSource) -> FingerprintedSource:
    """The source of a selection, or a source itself: which are selected is part of the config."""
    source = records.source if isinstance(records, SelectedRecords) else records
    if not isinstance(source, FingerprintedSource):
        raise TypeError(f"records of a run need a fingerprint; {type(source).__name__} has none")
    return source


def fingerprint_of(records: RecordSource) -> str:
    """Number and fingerprint of all records of a source."""
    source = whole_source(records)
    return f"{len(source)} {source.fingerprint()}"
