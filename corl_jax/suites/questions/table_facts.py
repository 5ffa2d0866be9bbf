"""What VLMEvalKit's tables of single benchmarks have under other names than their owners' files."""

from __future__ import annotations

import ast
import dataclasses

from corl_jax.core.errors import UserError
from corl_jax.suites.questions.fields import lettered
from corl_jax.suites.questions.question import Question

CIRCULAR_STEP = 10**6
"""MMBench asks a question again with its options turned, under its index plus multiples of this."""


def unchanged(question: Question) -> Question:
    """The question as the table has it."""
    return question


def with_circular_cluster(question: Question) -> Question:
    """MMBench: all turns of a question are one cluster.

    Raises:
      UserError: an index that is no number.
    """
    if not question.id.isdecimal():
        raise UserError(
            f"{question.location}: index must be a whole number; got {question.id!r}. Get the file "
            "again"
        )
    return dataclasses.replace(question, cluster=str(int(question.id) % CIRCULAR_STEP))


def with_task(question: Question) -> Question:
    """MathVista: options are a list in ``choices``, ``answer_type`` says what a free answer is.

    Raises:
      UserError: a column that is missing, or no list.
    """
    _fact(question, "answer_type")
    kind = _fact(question, "question_type")
    choices = _listed(question) if kind == "multi_choice" else {}
    return dataclasses.replace(question, choices=choices, category=_fact(question, "task"))


def with_listed_choices(question: Question) -> Question:
    """MATH-Vision: options are a list in ``choices``, empty where the answer is free.

    Raises:
      UserError: the column is missing, or no list.
    """
    return dataclasses.replace(question, choices=_listed(question))


def _listed(question: Question) -> dict[str, str]:
    text = _fact(question, "choices")
    try:
        choices = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        choices = None
    if not isinstance(choices, list):
        raise UserError(
            f"{question.location}: choices must be a list; got {text[:80]!r}. Get the file again"
        )
    return lettered([str(choice) for choice in choices])


def with_problem_version(question: Question) -> Question:
    """MathVerse: the versions of a problem are one cluster."""
    return dataclasses.replace(
        question,
        category=_fact(question, "problem_version"),
        cluster=_fact(question, "problem_index"),
    )


def with_steps(question: Question) -> Question:
    """WeMath: the steps of a problem are one cluster, and its category says which step it is."""
    name = "ID" if "ID" in question.facts else "id"
    key = _fact(question, "key")
    cluster = f"{key.partition('_')[0]}/{_fact(question, name)}"
    return dataclasses.replace(question, category=key, cluster=cluster)


def with_skill(question: Question) -> Question:
    """LogicVista: the category is the skill that a question needs."""
    return dataclasses.replace(question, category=_fact(question, "skill"))


def _fact(question: Question, column: str) -> str:
    if column in question.facts:
        return question.facts[column]
    raise UserError(
        f"{question.location}: {column} must be a text; got nothing. Get the file again, or name "
        "another --suite"
    )
