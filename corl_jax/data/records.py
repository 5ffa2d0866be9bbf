"""Checks that a ``Record`` is usable before prompts are made of it."""

from __future__ import annotations

import string

import numpy as np

from corl_jax.core.checks.json_reader import is_text
from corl_jax.core.errors import UserError
from corl_jax.core.types import Record
from corl_jax.data.answers.reading import is_correct, read_answer

QA_TYPES = ("MC", "OE")
"""Multiple choice and open ended."""


class TextTooLong(UserError):
    """A text of a record that has more tokens than its width.

    Attributes:
      problem: the message without the remedy.
      key: of the width in a config; "" where it comes from elsewhere.
      tokens: the width that would do.
    """

    def __init__(self, problem: str, key: str, tokens: int):
        remedy = f"set --config.{key}={tokens}" if key else "raise the prompt length"
        super().__init__(f"{problem}; shorten it, or {remedy}")
        self.problem, self.key, self.tokens = problem, key, tokens


def record_label(record: Record) -> str:
    """A record in an error text: its id, and its line and file if it comes from one."""
    return f"record {record.id!r}" + (f" ({record.location})" if record.location else "")


def check_record(record: Record) -> Record:
    """Returns ``record`` unchanged if its texts, image, choices and solution are usable.

    Raises:
      UserError: with the id of the record, the field, its value and what it must be.
    """
    label = record_label(record)

    # Texts that every record must have.
    for field in ("id", "prompt", "question", "answer"):
        text = getattr(record, field)
        if not isinstance(text, str) or not text.strip() or not is_text(text):
            raise UserError(
                f"{label}: {field} must be a text of characters, not empty; got {text!r}. "
                "Correct or drop the row"
            )

    _check_image(record.image, label)

    if record.qa_type not in QA_TYPES:
        raise UserError(
            f"{label}: qa_type must be one of {', '.join(QA_TYPES)}; got {record.qa_type!r}. "
            "Write MC for multiple choice and OE for open-ended questions"
        )
    _check_choices(record, label)
    _check_solution(record, label)
    return record


def _check_image(image: np.ndarray, label: str) -> None:
    """Raises UserError unless ``image`` is uint8 ``[H, W, 3]`` with at least one pixel."""
    # A record may come from a user's own source, so its fields can have any type.
    is_array = isinstance(image, np.ndarray)
    is_rgb = is_array and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    if not is_rgb:
        description = f"{image.dtype} {list(image.shape)}" if is_array else type(image).__name__
        raise UserError(
            f"{label}: image must be a uint8 array [height, width, 3]; got {description}. "
            "Convert it to RGB"
        )

    if 0 in image.shape:
        raise UserError(
            f"{label}: image is empty, {list(image.shape)}; replace the image or drop the row"
        )


def _check_choices(record: Record, label: str) -> None:
    """Raises UserError unless the choices and the answer fit the type of the question."""
    if record.qa_type == "OE":
        if record.choices:
            raise UserError(
                f"{label}: an open ended question must have no choices; got "
                f"{list(record.choices)}. Drop them or set qa_type to MC"
            )
        return

    # The answer to a multiple choice question is the letter of a choice.
    letters = string.ascii_uppercase[: len(record.choices)]
    if len(record.choices) < 2:
        raise UserError(
            f"{label}: a multiple choice question must have two or more choices; got "
            f"{len(record.choices)} choices. Write them below the question as lines 'A. ...', "
            "'B. ...', or set qa_type to OE"
        )
    if record.answer not in list(letters):
        raise UserError(
            f"{label}: answer must be the letter of a choice, {', '.join(letters)}; "
            f"got {record.answer!r}. Correct the solution or the options"
        )


def _check_solution(record: Record, label: str) -> None:
    """Raises UserError unless the solution that is to be imitated is a correct answer."""
    solution = record.solution or record.answer
    if not is_correct(solution, record.answer, record.qa_type, record.choices):
        raise UserError(
            f"{label}: solution must answer the question correctly; got {read_answer(solution)!r} "
            f"where the answer is {record.answer!r}. Correct one of them"
        )
