"""Some of a source's records, chosen by their questions. In: a source; out: a smaller one, in the same order."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol, SupportsIndex

from corl_jax.core.errors import UserError
from corl_jax.core.types import Record
from corl_jax.data.records import QA_TYPES
from corl_jax.data.sources import RecordSource


class DescribedSource(RecordSource, Protocol):
    """Records whose questions can be told apart without reading their pictures."""

    def about(self, index: int) -> tuple[str, str]:
        """``qa_type`` and ``kind`` of a record."""
        ...


@dataclasses.dataclass(frozen=True)
class Selected:
    """The records of ``source`` at ``rows``."""

    source: RecordSource
    rows: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: SupportsIndex) -> Record:
        return self.source[self.rows[index]]


def select(
    source: DescribedSource, questions: Sequence[str] = (), qa_type: str = "", limit: int = 0
) -> RecordSource:
    """The records whose question is asked for; a function of its arguments alone, without a seed.

    Args:
      source: to choose from.
      questions: kinds that stay, such as ``count``; none for all.
      qa_type: ``MC`` or ``OE``; "" for both.
      limit: the first so many of those; 0 for all.

    Raises:
      UserError: a kind or type that the source does not have, or fewer records than ``limit``.
    """
    if qa_type and qa_type not in QA_TYPES:
        raise UserError(
            f"data.qa_type={qa_type!r} is unknown; expected {', '.join(QA_TYPES)}, or '' for all"
        )
    if limit < 0:
        raise UserError(f"data.limit={limit} is no number of records; expected 0 (all) or more")
    rows: Sequence[int] = range(len(source))
    if questions or qa_type:
        found = [source.about(row) for row in rows]
        kinds = sorted({kind for _, kind in found if kind})
        if unknown := [kind for kind in questions if kind not in kinds]:
            there = (
                f"expected some of {', '.join(kinds)}" if kinds else "its records do not say a kind"
            )
            raise UserError(
                f"data.questions: no question is of the kind {unknown[0]!r}; {there}, or () for all"
            )
        rows = [
            row
            for row, (type_, kind) in zip(rows, found, strict=True)
            if (not questions or kind in questions) and (not qa_type or type_ == qa_type)
        ]
        if not rows:
            raise UserError(
                f"data.questions={tuple(questions)} and data.qa_type={qa_type!r} leave no record; ask for less"
            )
    if limit > len(rows):
        raise UserError(
            f"data.limit={limit} is more than the {len(rows)} records that there are; lower it, or 0"
        )
    rows = rows[:limit] if limit else rows
    return source if len(rows) == len(source) else Selected(source, tuple(rows))
