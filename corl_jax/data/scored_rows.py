"""Rows whose outputs are scored: records with the columns that training reads, and two more.

``picture`` (a path, bytes, or an object with a path) and ``completion`` (a text) are the outputs that
rewards are computed of. A row without a picture has that of its record.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np

from corl_jax.core.checks.json_reader import show_value
from corl_jax.core.errors import UserError
from corl_jax.core.problems import Problems, SeveralProblems
from corl_jax.core.types import Record
from corl_jax.data.records import record_label
from corl_jax.data.sources.columns import plain_value, resolve_columns
from corl_jax.data.sources.json_tables import JsonTable
from corl_jax.data.sources.pictures import picture_pixels, read_picture
from corl_jax.data.sources.table import Row, read_row

PICTURE, COMPLETION = "picture", "completion"
"""Columns of the outputs."""
LISTED = 10
"""Most rows that an error lists."""


@dataclasses.dataclass(frozen=True)
class ScoredRow:
    """A record and the outputs to compute rewards of.

    Attributes:
      record: the checked record.
      image: uint8 ``[H, W, 3]``, the ``picture`` of the row, or that of the record; None where it
        has neither.
      completion: the text of the row, or None.
    """

    record: Record
    image: np.ndarray | None
    completion: str | None


def read_scored_rows(path: pathlib.Path) -> list[ScoredRow]:
    """Reads all rows of a ``.jsonl``, ``.json`` or ``.csv`` file with their pictures.

    Several rows may have the same id, as several outputs of one record have.

    Raises:
      UserError: the file does not exist, or rows are unusable; it names them.
    """
    if not path.is_file():
        raise UserError(
            f"records must be in a JSON Lines file; there is no file {str(path)!r}. Check the path"
        )
    table = JsonTable.open(path)
    columns = resolve_columns(table.columns, {}, table.label)

    rows, problems = [], Problems()
    for row in table.rows(()):
        with problems.collect():
            rows.append(_read_scored_row(row, columns, table.folder))
    if len(problems.texts) > LISTED:
        more = f"and {len(problems.texts) - LISTED} more rows of {table.label}"
        raise SeveralProblems([*problems.texts[:LISTED], more])
    problems.raise_if_any()
    return rows


def _read_scored_row(row: Row, columns: Mapping[str, str], folder: pathlib.Path) -> ScoredRow:
    record, picture = read_row(row, columns, folder, set())
    if picture is not None:
        record = dataclasses.replace(record, image=picture_pixels(picture, record_label(record)))

    # Without a picture to score, the row is scored on its real image.
    image = record.image
    output = read_picture(plain_value(row.values.get(PICTURE)), PICTURE, folder, row.location)
    if output is not None:
        image = picture_pixels(output, f"{record_label(record)}, {PICTURE}")

    completion = row.values.get(COMPLETION)
    if completion is not None and not isinstance(completion, str):
        raise UserError(
            f"{row.location}: {COMPLETION} must be a text; got {show_value(completion)}. "
            "Quote it or leave it out"
        )
    return ScoredRow(record, image, completion)
