"""Whether a record's solution earns the rewards that compare answers: if not, no answer can.

A reward of the text task compares with ``answer``, a self-VQA reward of the image task with the
field that holds its reference answer.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable

from corl_jax.core.errors import UserError
from corl_jax.core.types import Completion, Record
from corl_jax.data.records import RewardMisfit, record_label
from corl_jax.rewards.base import RewardContext, rewards
from corl_jax.rewards.config import RewardOptions

Check = Callable[[Record], object]
"""Raises UserError about a record that cannot be used; its image is not looked at."""

REFERENCE_FIELDS = {
    **dict.fromkeys(
        ("accuracy", "accuracy_soft", "classes", "boxes", "numeric", "symbolic"), "answer"
    ),
    "self_answer": "answer",
    "self_classes": "class_answer",
    "self_boxes": "box_answer",
}
"""Reward -> the field of a record that it compares answers with."""
TEXT_REWARDS = {"self_answer": "accuracy", "self_classes": "classes", "self_boxes": "boxes"}
"""Self-VQA reward -> the text reward that scores its answers."""
FULL_REWARD = 0.999
"""A box has an IoU of 1 with itself only up to rounding."""


def solution_checks(names: Iterable[str], options: RewardOptions) -> list[Check]:
    """One check for each reward in ``names`` that compares answers: the solution must earn 1.

    A record whose solution does not raises UserError, which names the record, its line and file,
    the reward and its value.
    """
    context = RewardContext(options=options)
    return [
        functools.partial(_check_solution, name, context, {})
        for name in names
        if name in REFERENCE_FIELDS
    ]


def _check_solution(
    name: str, context: RewardContext, problems: dict[tuple[object, ...], str], record: Record
) -> None:
    """Raises UserError if the solution of ``record`` does not earn the reward ``name``.

    ``problems`` keeps what was found, since answers repeat and some rewards take milliseconds.
    """
    field = REFERENCE_FIELDS[name]
    reference = vars(record)[field]
    if not reference:
        raise RewardMisfit(
            f"{record_label(record)}: reward {name!r} needs {field}, which is empty. Add it, or "
            "choose another reward"
        )

    # The solution of a record answers its question; the other questions have an answer alone.
    solution = record.solution if field == "answer" else ""
    key = (solution, reference, record.qa_type, record.choices)
    if key not in problems:
        completion = Completion(
            dataclasses.replace(record, answer=reference),
            text=solution or f"<answer>{reference}</answer>",
        )
        problems[key] = _find_problem(name, completion, context)
    if problems[key]:
        raise RewardMisfit(f"{record_label(record)}: reward {name!r}: {problems[key]}")


def _find_problem(name: str, completion: Completion, context: RewardContext) -> str:
    """Why ``completion`` does not earn the full reward; "" if it does."""
    try:
        value = float(rewards[TEXT_REWARDS.get(name, name)]([completion], context)[0])
    except UserError as error:
        return str(error)
    if value >= FULL_REWARD:
        return ""
    return (
        f"the solution must earn 1; got {value:g} for {completion.text!r} where the answer is "
        f"{completion.record.answer!r}. Correct one of them, or drop the row"
    )
