"""The answer in a text, and whether it is correct: the one rule that reads both sides."""

from __future__ import annotations

import re
from collections.abc import Sequence

from corl_jax.core.errors import UserError
from corl_jax.data.answers.characters import canonical_text
from corl_jax.data.answers.options import extract_option
from corl_jax.data.answers.words import same_text
from corl_jax.data.answers.wrappers import strip_announcement, unwrap

ANSWER = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.S)


def extract_answer(text: str) -> str:
    """The stripped content of the last well-formed ``<answer>..</answer>``, as it is written.

    Answers may have several lines. A text without the tags is itself the answer, so that a model
    that answers correctly without them is not marked wrong (see docs/decisions.md#answer-reading).
    """
    answers = ANSWER.findall(text)
    return (answers[-1] if answers else text).strip()


def read_answer(text: str) -> str:
    """The answer in a completion, a solution or a reference answer, with canonical characters."""
    return extract_answer(canonical_text(text))


def is_correct(
    completion: str, reference_answer: str, qa_type: str, choices: Sequence[str] = ()
) -> bool:
    """Whether a completion answers its question correctly (see docs/decisions.md#answer-reading).

    Args:
      completion: a whole completion, with or without tags.
      reference_answer: bare or in ``<answer>`` tags, read as a completion is.
      qa_type: ``MC`` compares the options that are meant. Anything else is an open question, whose
        answer must say the same as the reference answer.
      choices: texts of the options of a multiple-choice question.

    Raises:
      UserError: the reference answer of a multiple-choice question means no option.
    """
    answer, expected = read_answer(completion), read_answer(reference_answer)
    if qa_type == "MC":
        letter = extract_option(expected, choices)
        if letter is None:
            raise UserError(
                "the reference answer of a multiple-choice question must be the letter or the text "
                f"of one option; got {expected[:80]!r}. Correct the record's answer."
            )
        return extract_option(answer, choices) == letter

    # Nothing is no answer, whatever it is compared with.
    if not answer:
        return False
    if same_text(answer, expected):
        return True
    answer, expected = (strip_announcement(unwrap(text)) for text in (answer, expected))
    return same_text(answer, expected)
