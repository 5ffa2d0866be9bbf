"""Reads records from a JSON Lines file with the columns of the data set ``mm-vl/x2x_rft_22k``.

Required columns: ``prompt``, ``real_image`` (a path, relative to the file), ``qa_problem``,
``qa_solution``, ``qa_type``. Optional columns: ``id``, ``kind``, ``cls_problem``, ``cls_solution``,
``od_problem``, ``od_solution``, and the output that rewards are computed of: ``picture`` (a path)
and ``completion`` (a text).
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from corl_jax.core.errors import UserError
from corl_jax.core.types import Record
from corl_jax.data.image_files import load_image
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
# The first pair of tags; an answer may have several lines.
ANSWER_TAG = re.compile(r"<answer>(.*?)</answer>", re.S)
# ``A. text`` or ``A) text`` on a line of its own.
OPTION = re.compile(r"^([A-Z])[.)] *(.+?) *$", re.M)


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
    rows = []

    # Not splitlines(): a caption may contain separators such as U+2028 that end no JSON line.
    for number, line in enumerate(path.read_text("utf-8").split("\n"), 1):
        if not line.strip():
            continue
        location = f"line {number} of {str(path)!r}"
        columns = _parse_line(line, location)
        record_id = str(columns.get("id", f"{path.stem}-{number}"))
        rows.append(RawRow(location, record_id, columns))

    if not rows:
        raise UserError(f"{str(path)!r} has no records; write one JSON object per line")
    return rows


def _parse_line(line: str, location: str) -> dict[str, Any]:
    """The columns of one line. A null counts as an absent column."""
    try:
        columns = json.loads(line)
    except ValueError as error:
        raise UserError(f"{location} is not JSON ({error}); write one object per line") from None
    if not isinstance(columns, dict):
        raise UserError(f"{location} must be a JSON object; got a {type(columns).__name__}")

    # A required column must not be null either.
    missing = [name for name in REQUIRED_COLUMNS if not isinstance(columns.get(name), str)]
    if missing:
        raise UserError(
            f"{location} must have the texts {', '.join(REQUIRED_COLUMNS)}; "
            f"{missing[0]!r} is missing or not a text"
        )

    columns = {name: value for name, value in columns.items() if value is not None}
    for name in OPTIONAL_COLUMNS.values():
        if not isinstance(columns.get(name, ""), str):
            raise UserError(
                f"{location}: {name} must be a text; got {columns[name]!r}. "
                "Quote it or leave it out"
            )
    return columns


def _read_row(row: RawRow, folder: pathlib.Path) -> RecordRow:
    columns = row.columns

    # Without a picture to score, the row is scored on its real image.
    real_image = load_image(folder / columns["real_image"], row.location)
    image = real_image
    if "picture" in columns:
        image = load_image(folder / columns["picture"], row.location)
    record = check_record(parse_record(columns, row.record_id, real_image))
    return RecordRow(record, image, columns.get("completion"))


def parse_record(columns: Mapping[str, Any], record_id: str, image: np.ndarray) -> Record:
    """Builds a ``Record`` from the columns of a row, without checking it.

    Args:
      columns: as in ``RawRow``.
      record_id: unique within the file.
      image: the real image, uint8 ``[H, W, 3]``.
    """
    question = columns["qa_problem"]
    # Any other type counts as open ended.
    qa_type = "MC" if columns["qa_type"] == "MC" else "OE"

    # Solutions without tags are bare answers; supervised training imitates tagged ones.
    answer = strip_answer_tags(columns["qa_solution"])
    solution = columns["qa_solution"].strip()
    if not ANSWER_TAG.search(solution):
        solution = f"<answer>{answer}</answer>"

    optional_fields = {}
    for field, column in OPTIONAL_COLUMNS.items():
        if column in columns:
            text = columns[column]
            optional_fields[field] = strip_answer_tags(text) if field.endswith("answer") else text

    return Record(
        record_id,
        columns["prompt"],
        image,
        question,
        answer,
        qa_type,  # type: ignore[arg-type]
        _parse_choices(question) if qa_type == "MC" else (),
        solution=solution,
        **optional_fields,
    )


def _parse_choices(question: str) -> tuple[str, ...]:
    """Texts of the options ``A. ...``, ``B. ...`` that follow ``Options:`` in the question."""
    _, heading, options = question.partition("Options:")
    matches = OPTION.findall(options) if heading else []

    # An option counts if its letter fits its position; other matches are skipped.
    return tuple(text for i, (letter, text) in enumerate(matches) if letter == chr(ord("A") + i))


def strip_answer_tags(text: str) -> str:
    """The text between the first answer tags, or all of ``text`` if it has none."""
    match = ANSWER_TAG.search(text)
    return (match.group(1) if match else text).strip()
