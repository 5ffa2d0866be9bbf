"""Random-access sources of records: an object with a length and ``source[i]``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, SupportsIndex, overload, runtime_checkable

from corl_jax.core.errors import UserError
from corl_jax.core.types import Record
from corl_jax.data.records import check_record
from corl_jax.data.unusable_records import CheckedSource


@runtime_checkable
class RecordSource(Protocol):
    """Records by position. Thread-safe, and a position always gives the same record."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: SupportsIndex) -> Record: ...


@runtime_checkable
class FingerprintedSource(RecordSource, Protocol):
    """Records that can tell whether they are still the same."""

    def fingerprint(self) -> str:
        """A short text that changes when the records do."""
        ...


@runtime_checkable
class CompositeSource(RecordSource, Protocol):
    """Records of other sources."""

    def with_sources(self, change: Callable[[RecordSource], RecordSource]) -> RecordSource:
        """The same records, read from changed sources."""
        ...


@runtime_checkable
class DescribedSource(FingerprintedSource, CheckedSource, Protocol):
    """What ``open_source`` gives: records whose texts are known without reading any image."""

    def qa_type_and_kind(self, index: int) -> tuple[str, str]:
        """``qa_type`` and ``kind`` of the record at ``index``; "" if it is unreadable."""
        ...

    def image_bytes(self, index: int) -> bytes | None:
        """The picture of the record at ``index`` as it is stored; None if the record has none.

        Raises:
          UserError: it cannot be read, or the record is unreadable.
        """
        ...


class MemorySource:
    """Checked records held in memory."""

    def __init__(self, records: Iterable[Record]):
        """Checks and stores ``records`` in their order.

        Raises:
          UserError: a record is unusable, or two have the same id.
        """
        # Records are checked once, so that indexing costs nothing.
        self._records = tuple(check_record(record) for record in records)

        # Errors and results name records by their ids.
        ids: set[str] = set()
        for record in self._records:
            if record.id in ids:
                raise UserError(
                    f"record {record.id!r} appears twice; ids must be unique within a source"
                )
            ids.add(record.id)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: SupportsIndex) -> Record:
        return self._records[index]

    @property
    def unreadable(self) -> Mapping[int, str]:
        """Nothing: all records were checked."""
        return {}

    def text_record(self, index: int) -> Record:
        """The record at ``index``."""
        return self._records[index]

    @property
    def has_image_files(self) -> bool:
        """All images have been read."""
        return False

    def check_image(self, index: int) -> None:
        """Does nothing: the image has been read."""


@dataclasses.dataclass(frozen=True)
class SelectedRecords(Sequence[Record]):
    """The records of ``source`` at positions ``rows``. A record is read when it is indexed.

    This is both a source of its own and the batch that a transform gets: a process that indexes
    only some positions of a batch reads only those records.
    """

    source: RecordSource
    rows: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> SelectedRecords: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Record | SelectedRecords:
        """One record, or for a slice a shorter selection of which nothing is read yet."""
        if isinstance(index, slice):
            return SelectedRecords(self.source, self.rows[index])
        return self.source[self.rows[index]]

    def with_sources(self, change: Callable[[RecordSource], RecordSource]) -> SelectedRecords:
        """The same records, read from a changed source."""
        return SelectedRecords(change(self.source), self.rows)
