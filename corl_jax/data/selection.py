"""Selects some records of a source by their questions, in the order of the source."""

from __future__ import annotations

from collections.abc import Sequence

from corl_jax.core.errors import UserError
from corl_jax.data.records import QA_TYPES
from corl_jax.data.sources.base import DescribedSource, RecordSource, SelectedRecords


def records_at(source: RecordSource, rows: Sequence[int]) -> RecordSource:
    """The records of ``source`` at ``rows``; ``source`` itself if these are all of them."""
    is_all = len(rows) == len(source) and all(row == i for i, row in enumerate(rows))
    return source if is_all else SelectedRecords(source, tuple(rows))


def select_rows(
    source: DescribedSource,
    questions: Sequence[str] = (),
    qa_type: str = "",
    limit: int = 0,
    key: str = "config.data",
) -> Sequence[int]:
    """Positions of the records that have the requested questions. Depends on the arguments only; has no seed.

    Args:
      source: the source to select from.
      questions: kinds of questions to select, such as ``count``; empty for all.
      qa_type: ``MC`` or ``OE``; "" for both.
      limit: the first so many of the selected records; 0 for all.
      key: the block of the config that the other arguments are from, for errors.

    Raises:
      UserError: a kind or type that the source does not have, or fewer records than ``limit``.
    """
    if qa_type and qa_type not in QA_TYPES:
        raise UserError(
            f"{key}.qa_type must be one of {', '.join(QA_TYPES)}, or '' for all; got {qa_type!r}"
        )
    if limit < 0:
        raise UserError(
            f"{key}.limit must be a number of records, or 0 for all; got {limit}. Raise it"
        )

    # The source is only searched if there is something to search for.
    rows: Sequence[int] = range(len(source))
    if questions or qa_type:
        rows = _matching_rows(source, questions, qa_type, key)

    # The first rows, so that a smaller limit selects a part of a larger one.
    if limit > len(rows):
        raise UserError(
            f"{key}.limit must be at most the {len(rows)} selected records; got {limit}. "
            "Lower it, or set 0 for all"
        )
    return rows[:limit] if limit else rows


def _matching_rows(
    source: DescribedSource, questions: Sequence[str], qa_type: str, key: str
) -> list[int]:
    """Positions of the records whose question is of one of the kinds and of the type."""
    descriptions = [source.qa_type_and_kind(row) for row in range(len(source))]

    # A misspelt kind would otherwise select nothing.
    known_kinds = sorted({kind for _, kind in descriptions if kind})
    unknown_kinds = [kind for kind in questions if kind not in known_kinds]
    if unknown_kinds:
        requirement = (
            f"must be kinds of this source, some of {', '.join(known_kinds)}"
            if known_kinds
            else "must be empty, since the records of this source have no kinds"
        )
        raise UserError(
            f"{key}.question_kinds {requirement}; got {unknown_kinds[0]!r}. Correct it, or "
            "set () for all"
        )

    # An empty list of kinds and an empty type match everything. A row that is unreadable may be of
    # any kind; it is kept, so that whoever checks the records names it.
    rows = []
    for row, (record_type, record_kind) in enumerate(descriptions):
        kind_matches = not questions or record_kind in questions or row in source.unreadable
        type_matches = not qa_type or record_type == qa_type or row in source.unreadable
        if kind_matches and type_matches:
            rows.append(row)
    if not rows:
        raise UserError(
            f"{key}.question_kinds={tuple(questions)} and {key}.qa_type={qa_type!r} "
            "leave no record; select more kinds or types"
        )
    return rows
