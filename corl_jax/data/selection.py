"""Selects some records of a source by their questions, and which of them are held out, in its order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from corl_jax.core.errors import UserError
from corl_jax.data.records import QA_TYPES
from corl_jax.data.shapes.examples import Split
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
    held_out: float = 0.0,
    side: Split = "train",
) -> Sequence[int]:
    """Positions of the records that have the requested questions. Depends on the arguments only; has no seed.

    Args:
      source: the source to select from.
      questions: kinds of questions to select, such as ``count``; empty for all.
      qa_type: ``MC`` or ``OE``; "" for both.
      limit: the first so many of the selected records; 0 for all.
      key: the block of the config that the other arguments are from, for errors.
      held_out, side: the share of the selected records that is held out, and on which side of it
        records are wanted, see ``rows_of_side``.

    Raises:
      UserError: a kind or type that the source does not have, a side without records, or fewer
        records than ``limit``.
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
    rows = rows_of_side(source, rows, held_out, side, key)

    # The first rows, so that a smaller limit selects a part of a larger one.
    if limit > len(rows):
        raise UserError(
            f"{key}.limit must be at most the {len(rows)} selected records; got {limit}. "
            "Lower it, or set 0 for all"
        )
    return rows[:limit] if limit else rows


def rows_of_side(
    source: DescribedSource,
    rows: Sequence[int],
    share: float,
    side: Split,
    key: str = "config.data",
) -> Sequence[int]:
    """Those of ``rows`` that are held out (``test``), or the others (``train``).

    Args:
      source: of the records.
      rows: positions in ``source``.
      share: that is held out, see ``is_held_out``; 0 changes nothing.
      side: ``train`` or ``test``.
      key: the block of the config that the share is for, for errors.

    Raises:
      UserError: one of the sides has no records.
    """
    if not share:
        return rows

    # A row that is unreadable has no id; whoever checks the training records names it.
    sides: dict[Split, list[int]] = {"train": [], "test": []}
    for row in rows:
        held_out = row not in source.unreadable and is_held_out(source.text_record(row).id, share)
        sides["test" if held_out else "train"].append(row)
    if not (sides["train"] and sides["test"]):
        raise UserError(
            f"config.data.held_out must hold out some of the {len(rows)} records of {key} and leave "
            f"some; got {share}, which holds out {len(sides['test'])}. "
            f"{'Raise' if sides['train'] else 'Lower'} it, or set 0"
        )
    return sides[side]


def is_held_out(record_id: str, share: float) -> bool:
    """Whether the record with that id is among a share of all ids.

    It depends on the id alone: the first 8 bytes of its SHA-256, as a fraction of ``2**64``, are
    below ``share``. A larger share has the records of a smaller one.
    """
    digest = hashlib.sha256(record_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


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
