"""Which column of a data set fills which field of a record, and what may stand in it."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from corl_jax.core.checks.json_reader import show_value
from corl_jax.core.errors import UserError
from corl_jax.core.types import COLUMN_FIELDS
from corl_jax.data.record_fields import Value

USUAL_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "id": ("id", "question_id"),
    "prompt": ("prompt", "caption", "text"),
    "image": ("real_image", "image", "images", "file_name"),
    "question": ("qa_problem", "question", "problem"),
    "answer": ("answer", "label"),
    "qa_type": ("qa_type",),
    "choices": ("choices", "options"),
    "kind": ("kind",),
    "class_question": ("cls_problem",),
    "class_answer": ("cls_solution",),
    "box_question": ("od_problem",),
    "box_answer": ("od_solution",),
    "solution": ("qa_solution", "solution"),
}
"""Field of a ``Record`` -> names of its column, of which the first that there is counts."""

CONSTANT = "="
"""A column that begins with this is no column but the text behind it, the same for all rows."""
NONE = "-"
"""A column with this name stands for none, where a usual one is something else."""


def resolve_columns(
    available: Collection[str],
    requested: Mapping[str, str],
    label: str,
    usual_columns: Mapping[str, Sequence[str]] = USUAL_COLUMNS,
) -> dict[str, str]:
    """Field to its column.

    Args:
      available: names of the columns that there are.
      requested: field to column, as in ``config.data.columns``.
      label: of the source, for errors.
      usual_columns: field to the names that are tried for what is not requested.

    Raises:
      UserError: a field or a column that there is not, or no column for prompts and questions.
    """
    if unknown := [field for field in requested if field not in COLUMN_FIELDS]:
        raise UserError(
            f"columns must have some of the fields {', '.join(COLUMN_FIELDS)}; got "
            f"{unknown[0]!r}. Correct it"
        )
    requested = {field: column for field, column in requested.items() if column}
    listed = ", ".join(sorted(available)[:20]) or "no columns"
    for field, column in requested.items():
        if not column.startswith(CONSTANT) and column != NONE and not _has(available, column):
            near = difflib.get_close_matches(column, available, n=1)
            raise UserError(
                f"config.data.columns.{field} must be a column of {label}, which has {listed}; got "
                f"{column!r}. {f'Did you mean {near[0]!r}?' if near else 'Correct it'}"
            )

    # A column that was given to one field is not taken for another.
    columns = dict(requested)
    for field in COLUMN_FIELDS:
        usual = [name for name in usual_columns.get(field, ()) if name in available]
        if field not in columns and usual and usual[0] not in requested.values():
            columns[field] = usual[0]
    columns = {field: column for field, column in columns.items() if column != NONE}
    if "prompt" not in columns and "question" not in columns:
        raise UserError(
            f"{label} must have a column of prompts or of questions; it has {listed}. Name them, "
            "for example with --config.data.columns.question=COLUMN"
        )
    return columns


def top_columns(columns: Sequence[str], available: Collection[str]) -> set[str]:
    """The columns that paths such as ``captions.text.0`` begin with."""
    names = {column if column in available else column.partition(".")[0] for column in columns}
    return {name for name in names if name in available}


def _has(available: Collection[str], column: str) -> bool:
    return column in available or column.partition(".")[0] in available


def look_up(row: Mapping[str, object], column: str) -> object:
    """The value of a column, which may be a path into objects and lists; None if it is absent."""
    if column.startswith(CONSTANT):
        return column.removeprefix(CONSTANT)
    if column in row:
        return row[column]

    value: object = row
    for key in column.split("."):
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
            value = value[int(key)] if key.isdecimal() and int(key) < len(value) else None
        else:
            return None
    return value


def read_fields(
    row: Mapping[str, object], columns: Mapping[str, str], location: str
) -> dict[str, Value]:
    """The values of a row by field, its image excepted; absent ones are left out.

    Raises:
      UserError: a value that is no text where one is needed.
    """
    return dict(_values(row, columns, location))


def _values(
    row: Mapping[str, object], columns: Mapping[str, str], location: str
) -> Iterator[tuple[str, Value]]:
    for field, column in columns.items():
        value = plain_value(look_up(row, column))
        if field == "image" or value is None:
            continue
        try:
            if field == "choices" and isinstance(value, Mapping | list | tuple):
                yield field, _list_of_texts(value)
            elif field == "answer" and type(value) is int:
                yield field, value
            else:
                yield field, _as_text(value)
        except ValueError as error:
            raise UserError(
                f"{location}: {column} must be {error}; got {show_value(value)}. Correct the row, "
                f"or name another column with --config.data.columns.{field}"
            ) from None


def plain_value(value: object) -> object:
    """A value without NumPy's types; bytes that are text become text."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    return value


def _as_text(value: object) -> str:
    """A text, or a number as one. ValueError says what the value must be."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError("text in UTF-8") from None
    # Lists of one, or of the same text again and again, are what some sets have for answers.
    if isinstance(value, list | tuple) and value and all(item == value[0] for item in value):
        return _as_text(value[0])
    if isinstance(value, float) and value != value:
        raise ValueError("a text")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("a text, or a list of one")
    return str(value)


def _list_of_texts(value: object) -> tuple[str, ...]:
    """The texts of a list, or of an object from the letters A, B, ... to texts."""
    if isinstance(value, Mapping):
        keys = sorted(value)
        if [key.upper() for key in keys] != [chr(65 + i) for i in range(len(keys))]:
            raise ValueError("a list of texts, or an object with the keys A, B, ...")
        value = [value[key] for key in keys]
    return tuple(_as_text(plain_value(item)) for item in list(value))  # type: ignore[call-overload]
