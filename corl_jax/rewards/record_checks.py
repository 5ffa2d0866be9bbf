"""What rewards need of records, so that a record that lacks it is found before training begins."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

from corl_jax.core.errors import UserError
from corl_jax.core.types import Record
from corl_jax.data.question_templates import QuestionField, fill_in_question
from corl_jax.data.records import RewardMisfit, record_label, require
from corl_jax.data.shapes.captions import parse_caption
from corl_jax.rewards.config import RewardOptions
from corl_jax.rewards.parsing.facts import facts_of
from corl_jax.rewards.solutions import Check, solution_checks

QUESTION_FIELDS: dict[str, QuestionField] = {
    "self_answer": "question",
    "self_classes": "class_question",
    "self_boxes": "box_question",
}
"""Reward to the question that the policy answers about an image that it has drawn."""

IMAGE_REWARDS = ("cycle_both", "pixel", "perceptual", "picture_likelihood")
"""Rewards that compare what was drawn or written with the image of the record."""


def record_checks(
    names: Sequence[str], options: RewardOptions, check_question: Check
) -> list[Check]:
    """What rewards need of the texts of a record. Rewards of the user need nothing known here.

    Args:
      names: of the rewards.
      options: of the rewards.
      check_question: whether the policy can be asked the question of a record.
    """
    checks: list[Check] = solution_checks(names, options)
    for name in names:
        if name in IMAGE_REWARDS:
            checks.append(_image_check(name))
        if name in ("shapes_strict", "shapes_soft") or (
            name in ("cycle", "cycle_both") and options.captioner == "shapes_parser"
        ):
            checks.append(_caption_check(name))
        if name == "perception":
            checks.append(functools.partial(facts_of, reward=name))
        if name in QUESTION_FIELDS:
            checks.append(_question_check(name, check_question))
        if name in ("matching", "prompt_likelihood"):
            checks.append(_matching_check(check_question))
    return checks


def _image_check(name: str) -> Check:
    """The record has a picture."""

    def check(record: Record) -> None:
        try:
            require(record, f"reward {name!r}", ("image",))
        except UserError as error:
            raise RewardMisfit(str(error)) from None

    return check


def _caption_check(name: str) -> Check:
    """Parses the prompt as a caption of the embedded world."""

    def check(record: Record) -> None:
        try:
            parse_caption(record.prompt)
        except UserError as error:
            raise RewardMisfit(f"{record_label(record)}, reward {name!r}: {error}") from None

    return check


def _matching_check(check_question: Check) -> Check:
    """Makes a prompt of the caption behind an image, as it is made of a question."""

    def check(record: Record) -> None:
        check_question(dataclasses.replace(record, question=record.prompt, template="as_is"))

    return check


def _question_check(name: str, check_question: Check) -> Check:
    """Makes a prompt of one of the questions."""
    field = QUESTION_FIELDS[name]

    def check(record: Record) -> None:
        if not vars(record)[field]:
            raise RewardMisfit(
                f"{record_label(record)}: reward {name!r} needs {field}, which is absent. "
                "Add its column"
            )
        question = fill_in_question(record, field)
        check_question(dataclasses.replace(record, question=question, template="as_is"))

    return check
