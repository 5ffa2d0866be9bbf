"""Checks a Record before anything is asked about it. In: a ``Record``; out: the same, or an error naming its row."""

from __future__ import annotations

import string

import numpy as np

from corl_jax.core.errors import UserError
from corl_jax.core.types import Record

QA_TYPES = ("MC", "OE")


def check(record: Record) -> Record:
    """Returns ``record`` if it can be used.

    Raises:
      UserError: naming the record's id, what is wrong, and what was expected.
    """
    where = f"record {record.id!r}"
    for field in ("id", "prompt", "question", "answer"):
        value = getattr(record, field)
        if not isinstance(value, str) or not value.strip():
            raise UserError(
                f"{where}: {field} is {value!r}; expected some text: correct or drop the row"
            )
    image = record.image
    if (
        not isinstance(image, np.ndarray)
        or image.dtype != np.uint8
        or image.ndim != 3
        or image.shape[2] != 3
    ):
        found = (
            f"{image.dtype} {list(image.shape)}"
            if isinstance(image, np.ndarray)
            else type(image).__name__
        )
        raise UserError(
            f"{where}: image is {found}; expected a uint8 array [height, width, 3]: convert it to RGB"
        )
    if 0 in image.shape:
        raise UserError(
            f"{where}: image is empty, {list(image.shape)}; replace the picture or drop the row"
        )
    if record.qa_type not in QA_TYPES:
        raise UserError(
            f"{where}: qa_type is {record.qa_type!r}; expected one of {', '.join(QA_TYPES)}"
        )
    if record.qa_type == "MC":
        letters = string.ascii_uppercase[: len(record.choices)]
        if len(record.choices) < 2:
            raise UserError(
                f"{where}: it is multiple choice with {len(record.choices)} choices; expected two or more"
            )
        if record.answer not in list(letters):
            raise UserError(
                f"{where}: answer is {record.answer!r}; expected the letter of a choice, {', '.join(letters)}"
            )
    elif record.choices:
        raise UserError(
            f"{where}: it is open ended but has choices {list(record.choices)}; drop them or set qa_type MC"
        )
    return record
