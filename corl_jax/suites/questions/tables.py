"""Tables of VLMEvalKit, the form in which every benchmark can be had: a row for each question.

Columns: ``index``, ``question``, ``image`` (base64, several of them as a list, or the index of the
row that has it) or ``image_path``, and as far as they apply ``hint``, ``A``, ``B``, ...,
``answer``, ``category``, ``l2-category``, ``split`` and those of the benchmark.
"""

from __future__ import annotations

import ast
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

from corl_jax.core.errors import UserError
from corl_jax.data.sources.pictures import Picture, StoredPicture
from corl_jax.data.sources.table import Row
from corl_jax.suites.questions.fields import (
    LONGEST_REFERENCE,
    Cells,
    base64_picture,
    picture_name,
)
from corl_jax.suites.questions.question import Question

COLUMNS = ("index", "question")
NO_FACTS = ("image", "image_path", "question", "hint", "answer", "category")
"""Columns that a ``Question`` has as fields."""


def read_table(rows: Sequence[Row], folder: pathlib.Path) -> list[Question]:
    """The questions of a table.

    Args:
      rows: of the table.
      folder: that ``image_path`` is relative to.

    Raises:
      UserError: a row without an index, or without a picture that can be named.
    """
    all_cells = [Cells(row, folder) for row in rows]
    images = {cells.text("index"): _base64(cells) for cells in all_cells}
    cache: dict[str, tuple[Picture, ...]] = {}
    return [_question(cells, images, cache) for cells in all_cells]


def _question(
    cells: Cells, images: Mapping[str, str], cache: dict[str, tuple[Picture, ...]]
) -> Question:
    pictures = _pictures(cells, images, cache)
    choices = cells.lettered_choices()
    texts = {
        column: cells.text(column)
        for column, value in cells.row.values.items()
        if column not in NO_FACTS and column not in choices and isinstance(value, str | int | float)
    }
    return Question(
        id=cells.required_text("index"),
        cluster="+".join(picture_name(picture) for picture in pictures),
        text=cells.text("question"),
        choices=choices,
        hint=cells.text("hint"),
        answer=cells.text("answer"),
        category=cells.text("category"),
        pictures=pictures,
        facts=texts,
        location=cells.row.location,
    )


def _pictures(
    cells: Cells, images: Mapping[str, str], cache: dict[str, tuple[Picture, ...]]
) -> tuple[Picture, ...]:
    """The pictures of a row, or those of the row that it names; one object for each text."""
    text = _base64(cells)
    if not text:
        # Parquet files have the bytes themselves.
        is_stored = cells.has("image")
        return (cells.picture("image"),) if is_stored else _files(cells)
    if len(text) <= LONGEST_REFERENCE:
        if len(images.get(text, "")) <= LONGEST_REFERENCE:
            raise UserError(
                f"{cells.row.location}: image must be a picture in base64, or the index of the row "
                f"that has it; got {text!r}. Get the file again"
            )
        text = images[text]

    if text not in cache:
        parts = ast.literal_eval(text) if text.startswith("[") else [text]
        cache[text] = tuple(
            _once(base64_picture(part, "image", cells.row.location)) for part in parts
        )
    return cache[text]


def _base64(cells: Cells) -> str:
    """What stands under ``image``, if it is a text."""
    value = cells.row.values.get("image")
    return value if isinstance(value, str) else ""


def _once(picture: StoredPicture) -> StoredPicture:
    """Checks that a picture is base64 now, before anything is asked."""
    picture.fetch()
    return picture


def _files(cells: Cells) -> tuple[Picture, ...]:
    """The pictures of the column ``image_path``: a path, or a list of paths."""
    text = cells.required_text("image_path")
    paths = cells.list_of("image_path") if text.startswith("[") else (text,)
    one = [
        Cells(dataclasses.replace(cells.row, values={"image_path": path}), cells.folder)
        for path in paths
    ]
    return tuple(item.picture("image_path") for item in one)
