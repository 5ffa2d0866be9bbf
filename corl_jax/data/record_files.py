"""Reads records from a JSON Lines file with the columns of the data set ``mm-vl/x2x_rft_22k``.

Required columns: ``prompt``, ``real_image`` (a path, relative to the file), ``qa_problem``,
``qa_solution``, ``qa_type``. Optional columns: ``id``, ``kind``, ``cls_problem``, ``cls_solution``,
``od_problem``, ``od_solution``, and the output that rewards are computed of: ``picture`` (a path)
and ``completion`` (a text). A path may stand in an object, as Hugging Face data sets write it:
``{"bytes": null, "path": "images/0.png"}``.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.checks.json_reader import parse_json, read_lines, show_value
from corl_jax.core.checks.paths import user_path
from corl_jax.core.errors import UserError
from corl_jax.core.types import Record
from corl_jax.data.image_files import load_image
from corl_jax.data.record_fields import make_record
from corl_jax.data.records import check_record

REQUIRED_COLUMNS = ("prompt", "real_image", "qa_problem", "qa_solution", "qa_type")
OPTIONAL_COLUMNS = {
    "kind": "kind",
    "class_question": "cls_problem",
    "class_answer": "cls_solution",
    "box_question": "od_problem",
    "box_answer": "od_solution",
}
"""Optional field of a ``Record`` -> its column in the file."""
TEXT_COLUMNS = {
    "prompt": "prompt",
    "question": "qa_problem",
    "solution": "qa_solution",
    "qa_type": "qa_type",
    **OPTIONAL_COLUMNS,
}
"""Field of a ``Record`` that is a text -> its column in the file."""
PICTURE_COLUMNS = ("real_image", "picture")


@dataclasses.dataclass(frozen=True)
class RecordRow:
    """One row of a file whose outputs are scored: a record and the outputs to compute rewards of.

    Attributes:
      record: the checked record.
      image: uint8 ``[H, W, 3]``, the ``picture`` of the row, or the real image if it names none.
      completion: the text of the row, or None.
    """

    record: Record
    image: np.ndarray
    completion: str | None


class RawRow(NamedTuple):
    """The columns of a row, no image read; ``location`` (line and file) is for error texts."""

    location: str
    record_id: str
    columns: dict[str, Any]


def read_records(path: pathlib.Path) -> list[RecordRow]:
    """Reads all rows of a file with their images.

    Raises:
      UserError: the file does not exist, or a row is unusable; it names the line.
    """
    if not path.is_file():
        raise UserError(
            f"records must be in a JSON Lines file; there is no file {str(path)!r}. Check the path"
        )
    return [_read_row(row, path.parent) for row in read_columns(path)]


def read_columns(path: pathlib.Path) -> list[RawRow]:
    """Reads the columns of every row of a file, but no images.

    Raises:
      UserError: a row is not an object with the required columns, or the file has no row.
    """
    return [parse_row(path, number, line) for number, line in numbered_lines(path)]


def numbered_lines(path: pathlib.Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that are not empty, with their numbers from 1.

    Raises:
      UserError: there are none.
    """
    number = 0
    for number, line in read_lines(path):
        yield number, line
    if not number:
        raise UserError(f"{str(path)!r} has no records; write one JSON object per line")


def parse_row(path: pathlib.Path, number: int, line: bytes) -> RawRow:
    """The columns of one line of ``path``.

    Raises:
      UserError: it is not an object with the required columns.
    """
    location = f"line {number} of {str(path)!r}"
    columns = _parse_line(line, location)
    return RawRow(location, str(columns.get("id", f"{path.stem}-{number}")), columns)


def _parse_line(line: bytes, location: str) -> dict[str, Any]:
    """The columns of one line. A null counts as an absent column, a picture is a path."""
    advice = "write one object per line"
    columns = dict(JsonObject.check(parse_json(line, location, advice), location, advice).entries)
    for name in PICTURE_COLUMNS:
        columns[name] = _picture_path(columns.get(name), name, location)

    # A required column must not be null either.
    missing = [name for name in REQUIRED_COLUMNS if not isinstance(columns.get(name), str)]
    if missing:
        raise UserError(
            f"{location} must have the texts {', '.join(REQUIRED_COLUMNS)}; "
            f"{missing[0]!r} is missing or not a text"
        )

    columns = {name: value for name, value in columns.items() if value is not None}
    for name in (*OPTIONAL_COLUMNS.values(), "picture", "completion"):
        if not isinstance(columns.get(name, ""), str):
            raise UserError(
                f"{location}: {name} must be a text; got {show_value(columns[name])}. "
                "Quote it or leave it out"
            )
    if not isinstance(columns.get("id", ""), (str, int, float)):
        raise UserError(
            f"{location}: id must be a text or a number; got {show_value(columns['id'])}. "
            "Quote it or leave it out"
        )
    return columns


def _picture_path(value: object, name: str, location: str) -> object:
    """The path of a picture: the value itself, or that in the struct of Hugging Face data sets.

    Raises:
      UserError: a struct without a path.
    """
    if not isinstance(value, dict):
        return value
    # ``datasets.Image`` writes {"bytes": null, "path": "..."} where the picture is a file.
    if not isinstance(value.get("path"), str):
        raise UserError(
            f"{location}: {name} must be a path, or an object with a text 'path'; got one without. "
            "Write the picture to a file and its path to 'path'"
        )
    return value["path"]


def _read_row(row: RawRow, folder: pathlib.Path) -> RecordRow:
    columns = row.columns

    # Without a picture to score, the row is scored on its real image.
    real_image = load_image(picture_file(row, "real_image", folder), row.location)
    image = real_image
    if "picture" in columns:
        image = load_image(picture_file(row, "picture", folder), row.location)
    record = check_record(parse_record(columns, row.record_id, real_image, row.location))
    return RecordRow(record, image, columns.get("completion"))


def picture_file(row: RawRow, column: str, folder: pathlib.Path) -> pathlib.Path:
    """The file that a column names, relative to the folder of the records.

    Raises:
      UserError: no file can have that name.
    """
    return user_path(folder / row.columns[column], f"{row.location}: {column}")


def parse_record(
    columns: Mapping[str, Any], record_id: str, image: np.ndarray, location: str = ""
) -> Record:
    """Builds a ``Record`` from the columns of a row, without checking it.

    Args:
      columns: as in ``RawRow``.
      record_id: unique within the file.
      image: the real image, uint8 ``[H, W, 3]``.
      location: as in ``RawRow``.
    """
    fields = {field: columns[name] for field, name in TEXT_COLUMNS.items() if name in columns}
    return make_record(fields, record_id, image, location)
