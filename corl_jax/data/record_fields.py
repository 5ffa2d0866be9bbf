"""Makes a ``Record`` of the texts of a row, which people write in many ways.

In: values by field of ``Record``, whatever their columns are called. Out: a record whose type,
choices and answer are read by the rules of ``data.answers``; ``data.records`` checks it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import cast

import numpy as np

from corl_jax.core.checks.json_reader import show_value
from corl_jax.core.errors import UserError
from corl_jax.core.types import QaType, Record
from corl_jax.data.answers.options import LETTERS, extract_option, list_options
from corl_jax.data.answers.reading import ANSWER, read_answer
from corl_jax.data.records import QA_TYPE_SPELLINGS, YES_NO_SPELLINGS, normalize_spelling

Value = str | int | tuple[str, ...]
"""A text, for ``answer`` also the number of a choice from 0, for ``choices`` also a tuple."""


PLACEHOLDER = "<image>"


@dataclasses.dataclass(frozen=True)
class Answer:
    """The reference answer of a row: how it is compared, and the text that is imitated."""

    text: str
    solution: str


def make_record(
    fields: Mapping[str, Value], record_id: str, image: np.ndarray | None, location: str = ""
) -> Record:
    """Builds a ``Record``, without checking it.

    Args:
      fields: values by field; those of ``COLUMN_FIELDS`` that the row does not have are absent.
      record_id: unique within the source.
      image: the real image, uint8 ``[H, W, 3]``, or None.
      location: line and file, for error texts.

    Raises:
      UserError: choices or an answer that cannot be read.
    """
    label = location or f"record {record_id!r}"
    question = _without_placeholder(_text(fields, "question"), label)
    listed, choices = list_options(question), _read_choices(fields, label)
    # The policy has to see what it can choose from.
    if choices and len(listed) < 2:
        lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
        question = "\n".join([question, "Options:", *lines])

    answer = _read_answer(fields, choices, label)
    qa_type = _read_qa_type(fields, choices, listed, answer.text, label)
    # Choices of a column beside an open question are a contradiction that the check names.
    if qa_type == "MC":
        choices = choices or listed
    text = answer.text
    if choices:
        text = extract_option(text, choices) or text

    class_and_box = {name: _text(fields, name) for name in ("class_question", "box_question")}
    for name in ("class_answer", "box_answer"):
        class_and_box[name] = read_answer(_text(fields, name))
    return Record(
        record_id,
        _text(fields, "prompt"),
        image,
        question,
        text,
        qa_type,
        choices,
        _text(fields, "kind"),
        **class_and_box,
        solution=answer.solution,
        location=location,
    )


def _text(fields: Mapping[str, Value], name: str) -> str:
    """A field that is a text; "" if it is absent or shows nothing."""
    text = str(fields.get(name, ""))
    return text if text.strip() else ""


def _without_placeholder(question: str, label: str) -> str:
    """The question without the ``<image>`` that some sets write where the picture belongs."""
    count = question.count(PLACEHOLDER)
    if count > 1:
        raise UserError(
            f"{label}: question must ask about one picture; got {count} times {PLACEHOLDER}. Drop "
            "the row"
        )
    return question.replace(PLACEHOLDER, "").strip() if count else question


def _read_choices(fields: Mapping[str, Value], label: str) -> tuple[str, ...]:
    """The choices of a column of their own, without letters; () if there is none."""
    value = fields.get("choices", ())
    if isinstance(value, str):
        choices = list_options(value)
        if value.strip() and len(choices) < 2:
            raise UserError(
                f"{label}: choices must be a list of texts, or lines 'A. ...', 'B. ...'; got "
                f"{show_value(value)}. Correct the row"
            )
        return choices
    if not isinstance(value, tuple):
        raise UserError(f"{label}: choices must be a list of texts; got {show_value(value)}")

    # Some lists have the letters in them.
    lettered = list_options("\n".join(value))
    return lettered if len(lettered) == len(value) else value


def _read_answer(fields: Mapping[str, Value], choices: tuple[str, ...], label: str) -> Answer:
    """The answer of a row, from its solution or its answer or both."""
    answer, solution = fields.get("answer", ""), _text(fields, "solution").strip()
    if isinstance(answer, int) and choices:
        answer = _choice_at(answer, choices, label)
    answer = str(answer).strip()
    if not solution:
        solution = answer
    if not answer:
        answer = solution

    # The answer is read as that of a completion is. Solutions without tags are bare answers;
    # supervised training imitates tagged ones.
    if solution and not ANSWER.search(solution):
        solution = f"<answer>{solution}</answer>"
    return Answer(read_answer(answer), solution)


def _choice_at(position: int, choices: tuple[str, ...], label: str) -> str:
    """The choice that a number means: the text of one, or its position from 0."""
    if str(position) in choices:
        if not 0 <= position < len(choices) or choices[position] == str(position):
            return str(position)
        raise UserError(
            f"{label}: answer must be one choice; got {position}, which is the text of one and the "
            "position of another. Write its letter"
        )
    if not 0 <= position < len(choices):
        raise UserError(
            f"{label}: answer must be a position from 0 to {len(choices) - 1}, a letter or a text "
            f"of {len(choices)} choices; got {position}. Correct the row"
        )
    return LETTERS[position]


def _read_qa_type(
    fields: Mapping[str, Value],
    choices: tuple[str, ...],
    listed: tuple[str, ...],
    answer: str,
    label: str,
) -> QaType:
    """The type of the question; without a column of types, whether the answer is a choice."""
    written = _text(fields, "qa_type")
    if not written:
        is_listed = len(listed) > 1 and extract_option(answer, listed) is not None
        return "MC" if choices or is_listed else "OE"

    spelling = normalize_spelling(written)
    if spelling in YES_NO_SPELLINGS and answer.strip(" .").lower() not in ("yes", "no"):
        raise UserError(
            f"{label}: answer must be yes or no where qa_type is {written!r}; got "
            f"{show_value(answer)}. Correct one of them"
        )
    # The check of records refuses a type that is none of these.
    return QA_TYPE_SPELLINGS.get(spelling, cast(QaType, written))
