"""Rewards of answers: right, in part right, and in the asked form. In: text completions; out: a number in [0, 1] each.

The record's ``answer`` is the reference, bare or in ``<answer>`` tags. docs/rewards.md compares them with the reference
implementation's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from corl_jax.core.types import Completion
from corl_jax.rewards.base import RewardContext, rewards
from corl_jax.rewards.parsing.answers import extract_answer, is_right, tags_once, well_formed
from corl_jax.rewards.parsing.boxes import box_score
from corl_jax.rewards.parsing.classes import class_f1
from corl_jax.rewards.parsing.math_equal import same_formula
from corl_jax.rewards.parsing.numbers import same_number
from corl_jax.rewards.parsing.soft_jaccard import soft_jaccard


def text_of(completion: Completion) -> str:
    """The text of a text completion."""
    if completion.text is None:
        raise ValueError("this reward reads texts, but the completion is a picture")
    return completion.text


def _compared(
    compare: Callable[[str, str], float], completions: Sequence[Completion]
) -> Float[np.ndarray, "N"]:
    """``compare(answer, reference)`` of every row, both without their tags."""
    return np.array(
        [
            float(compare(extract_answer(text_of(c)), extract_answer(c.record.answer)))
            for c in completions
        ]
    )


def _right(completions: Sequence[Completion]) -> Float[np.ndarray, "N"]:
    """1 where the answer is right, 0 elsewhere."""
    return np.array(
        [
            float(is_right(text_of(c), c.record.answer, c.record.qa_type, c.record.choices))
            for c in completions
        ]
    )


@rewards.register("accuracy")
def accuracy(completions: Sequence[Completion], context: RewardContext) -> np.ndarray:
    """1 where the answer is right, see ``answers.is_right`` (CoRL's R_Acc, R_MCQ-Acc and R_OE-Acc).

    Where ``reward.open_ended`` says so it is ``accuracy_soft``.
    """
    soft = context.settings.open_ended == "soft_jaccard"
    return accuracy_soft(completions, context) if soft else _right(completions)


@rewards.register("accuracy_soft")
def accuracy_soft(completions: Sequence[Completion], context: RewardContext) -> np.ndarray:
    """1 where the answer is right, but a wrong open answer earns its ``overlap.soft_jaccard`` with the reference
    (ULM-R1's code, ``qa_accuracy``). Multiple choice stays 0 or 1."""
    values = _right(completions)
    for i, completion in enumerate(completions):
        if not values[i] and completion.record.qa_type == "OE":
            answer = extract_answer(text_of(completion)).rstrip(".,!?")
            values[i] = soft_jaccard(answer, extract_answer(completion.record.answer))
    return values


@rewards.register("format")
def format_(completions: Sequence[Completion], context: RewardContext) -> np.ndarray:
    """1 where thinking and answer stand in their tags, ``<think>x</think><answer>y</answer>`` (CoRL's R_Format).

    White space around them costs it where ``reward.strict_whitespace`` says so.
    """
    strict = context.settings.strict_whitespace
    return np.array([float(well_formed(text_of(c), strict_whitespace=strict)) for c in completions])


@rewards.register("format_tags")
def format_tags(completions: Sequence[Completion], context: RewardContext) -> np.ndarray:
    """A quarter for each of the four tags that stands exactly once, see ``answers.tags_once`` (ULM-R1's ``format_tag``,
    which gives an eighth each)."""
    return np.array([tags_once(text_of(c)) for c in completions])


@rewards.register("classes")
def classes(completions: Sequence[Completion], context: RewardContext) -> np.ndarray:
    """F1 of the object classes that the answer lists, see ``classes.class_f1`` (for ULM-R1's ``oc_accuracy``)."""
    return _compared(class_f1, completions)


@rewards.register("boxes")
def boxes(completions: Sequence[Completion], context: RewardContext) -> np.ndarray:
    """IoU of the boxes that the answer lists with those of the reference, see ``boxes.box_score``."""
    return _compared(box_score, completions)


@rewards.register("numeric")
def numeric(completions: Sequence[Completion], context: RewardContext) -> np.ndarray:
    """1 where the answer's one number is the reference's, see ``numbers.same_number`` (OThink-MR1's counting)."""
    return _compared(same_number, completions)


@rewards.register("symbolic")
def symbolic(completions: Sequence[Completion], context: RewardContext) -> np.ndarray:
    """1 where the answer is mathematically the reference, see ``algebra.same_formula`` (OThink-MR1's geometry)."""
    return _compared(same_formula, completions)
