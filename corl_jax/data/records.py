"""Checks that a ``Record`` is usable before prompts are made of it."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence

import numpy as np

from corl_jax.core.checks.json_reader import is_text
from corl_jax.core.errors import UserError
from corl_jax.core.types import QaType, Record
from corl_jax.data.answers.characters import canonical_text
from corl_jax.data.answers.reading import is_correct, read_answer

COLUMNS_ADVICE = "Correct or drop the row, or name its column with --config.data.columns"
LACKS_ADVICE = "add it, name its column with --config.data.columns, or give the task other records"
ADD_OR_DIVIDE = (
    "hold out a share of the training records (--config.data.held_out=0.01), or do without held-out "
    "records (--config.hooks.probe_every=0 --config.evals.num_records=0)"
)
"""What to do about a data set that has training records alone."""

QA_TYPES = ("MC", "OE")
"""Multiple choice and open ended."""

YES_NO_SPELLINGS = ("yn", "yes no", "yes/no", "yesno", "yes or no", "binary", "bool", "boolean")
"""How files write that the answer is yes or no: an open question."""
QA_TYPE_SPELLINGS: Mapping[str, QaType] = {
    "mc": "MC",
    "mcq": "MC",
    "multiple choice": "MC",
    "multiple choice question": "MC",
    "multi choice": "MC",
    "oe": "OE",
    "oeq": "OE",
    "open": "OE",
    "open ended": "OE",
    "open ended question": "OE",
    "open question": "OE",
    "free form": "OE",
    **dict.fromkeys(YES_NO_SPELLINGS, "OE"),
}
"""How files write the type of a question, in lower case and with single spaces."""


def normalize_spelling(qa_type: str) -> str:
    """A type of question as ``QA_TYPE_SPELLINGS`` has it."""
    return re.sub(r"[\s_-]+", " ", canonical_text(qa_type)).strip().lower()


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


class RewardMisfit(UserError):
    """A record that a reward of the run cannot score."""


def record_label(record: Record) -> str:
    """A record in an error text: its id, and its line and file if it comes from one."""
    return f"record {record.id!r}" + (f" ({record.location})" if record.location else "")


def check_record(record: Record) -> Record:
    """Returns ``record`` unchanged if what it has of texts, image, choices and solution fits.

    A record may lack its image, its prompt or its question with the answer. What of them a task
    needs is checked by the task.

    Raises:
      UserError: with the id of the record, the field, its value and what it must be.
    """
    label = record_label(record)

    _check_texts(record, label)
    if record.image is not None:
        _check_image(record.image, label)

    if record.qa_type not in QA_TYPES:
        raise UserError(
            f"{label}: qa_type must be one of {', '.join(QA_TYPES)}; got {record.qa_type!r}. "
            f"Write one of {', '.join(QA_TYPE_SPELLINGS)}"
        )
    if record.question:
        _check_choices(record, label)
        _check_solution(record, label)
    return record


def image_of(record: Record) -> np.ndarray:
    """The image of a record, uint8 ``[H, W, 3]``.

    Raises:
      UserError: it has none.
    """
    if record.image is None:
        raise UserError(f"{record_label(record)} has no picture; {LACKS_ADVICE}")
    return record.image


def require(record: Record, task: str, fields: Sequence[str]) -> None:
    """Checks that a record has what a task needs.

    Args:
      record: the record; of its image only whether there is one is looked at.
      task: what needs it, for the error.
      fields: ``image``, or texts.

    Raises:
      UserError: one of them is absent.
    """
    for field in fields:
        if _lacks(record, field):
            noun = "picture" if field == "image" else field
            raise UserError(
                f"{record_label(record)}: {task} needs a {noun}, which the record lacks; "
                f"{LACKS_ADVICE}"
            )


TASK_FIELDS: Mapping[str, Sequence[str]] = {
    "image": ("prompt",),
    "text": ("image", "question", "answer"),
}
"""Task to what it needs of a record."""

TASK_FIELDS_IN_WORDS: Mapping[str, Sequence[str]] = {
    "image": ("prompt",),
    "text": ("question", "answer"),
}
"""The same where questions are asked without their pictures."""


def has_task(record: Record, task: str) -> bool:
    """Whether a record has what ``task`` needs; its image may be a placeholder."""
    return has_fields(record, TASK_FIELDS[task])


def has_fields(record: Record, fields: Sequence[str]) -> bool:
    """Whether a record has these fields, ``image`` or texts; its image may be a placeholder."""
    return not any(_lacks(record, field) for field in fields)


def _lacks(record: Record, field: str) -> bool:
    """Whether a field, ``image`` or a text, is absent."""
    value = vars(record)[field]
    return value is None or isinstance(value, str) and not value


def _check_texts(record: Record, label: str) -> None:
    """Raises UserError for a text that is none, or that needs another one beside it."""
    for field in ("id", "prompt", "question", "answer"):
        text = getattr(record, field)
        if not isinstance(text, str) or text and not text.strip() or not is_text(text):
            raise UserError(
                f"{label}: {field} must be a text of characters; got {text!r}. Correct or drop the "
                "row"
            )
    if not record.id:
        raise UserError(f"{label}: id must be a text of characters, not empty; got ''. Name it")
    if not record.prompt and not record.question:
        raise UserError(
            f"{label}: prompt must be a text of characters, not empty, where there is no question; "
            f"got ''. {COLUMNS_ADVICE}"
        )
    if bool(record.question) != bool(record.answer):
        has, lacks = ("question", "answer") if record.question else ("answer", "question")
        raise UserError(
            f"{label}: {lacks} must be a text of characters, not empty, where there is the {has} "
            f"{vars(record)[has][:80]!r}. {COLUMNS_ADVICE}"
        )


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
