"""Whether a record's solution earns the rewards that compare answers: it must, or none can.

A reward of the text task compares with ``answer``, a self-VQA reward of the image task with the
field that holds its reference answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

from corl_jax.core.errors import UserError
from corl_jax.core.types import Completion, Record
from corl_jax.data.records import record_label
from corl_jax.rewards.base import RewardContext, compute_rewards
from corl_jax.rewards.config import RewardOptions

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


def solution_check(names: Iterable[str], options: RewardOptions) -> Callable[[Record], None] | None:
    """A check that refuses records whose solution does not earn the full reward.

    Args:
      names: of rewards; those that compare no answers are left out.
      options: of the run.

    Returns:
      a function of a record, whose image is not looked at; None where no reward compares answers.
      It raises UserError with the reward and its value. Threads may call it.
    """
    context = RewardContext(options=options)
    compared = [name for name in names if name in REFERENCE_FIELDS]
    # Answers repeat in a data set, and some rewards take milliseconds.
    problems: dict[tuple[object, ...], str] = {}

    def check(record: Record) -> None:
        for name in compared:
            reference = vars(record)[REFERENCE_FIELDS[name]]
            solution = record.solution if REFERENCE_FIELDS[name] == "answer" else ""
            key = (name, solution, reference, record.qa_type, record.choices)
            if key not in problems:
                problems[key] = _problem(record, name, solution, reference, context)
            if problems[key]:
                raise UserError(f"{record_label(record)}: {problems[key]}")

    return check if compared else None


def _problem(
    record: Record, name: str, solution: str, reference: str, context: RewardContext
) -> str:
    """What is wrong with a solution under the reward ``name``; "" if nothing is."""
    if not reference:
        return f"reward {name!r} needs {REFERENCE_FIELDS[name]}, which is absent. Add its column"

    completion = Completion(
        dataclasses.replace(record, answer=reference),
        text=solution or f"<answer>{reference}</answer>",
    )
    try:
        value = compute_rewards([completion], {TEXT_REWARDS.get(name, name): 1.0}, context).total[0]
    except UserError as error:
        return f"its reference answer cannot be used: {error}"
    if value < 0.999:
        return (
            f"its solution must earn 1 under reward {name!r}; got {value:g} for {solution!r} where "
            f"the answer is {reference!r}. Correct one of them, or drop the row"
        )
    return ""
