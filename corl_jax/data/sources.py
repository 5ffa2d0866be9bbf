"""Random-access sources of Records. In: Records or files; out: something with a length and ``source[i]``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, SupportsIndex, runtime_checkable

from corl_jax.core.errors import UserError
from corl_jax.core.types import Record
from corl_jax.data.records import check


@runtime_checkable
class RecordSource(Protocol):
    """Records by position; thread-safe, and the same record every time."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: SupportsIndex) -> Record: ...


class MemorySource:
    """Checked records held in memory."""

    def __init__(self, records: Iterable[Record]):
        """Takes ``records`` in order.

        Raises:
          UserError: a record is unusable, or two have the same id.
        """
        self._records = tuple(check(record) for record in records)
        seen: set[str] = set()
        for record in self._records:
            if record.id in seen:
                raise UserError(
                    f"record {record.id!r} appears twice; ids must be unique within a source"
                )
            seen.add(record.id)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: SupportsIndex) -> Record:
        return self._records[index]
