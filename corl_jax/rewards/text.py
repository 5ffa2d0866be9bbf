"""Rewards for answers: correct, partly correct, and in the required format.

In: text completions; out: ``[N]`` in [0, 1]. The record's ``answer`` is the reference answer, bare
or in ``<answer>`` tags. docs/rewards.md compares these rewards with those of ULM-R1's code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from corl_jax.core.types import Completion
from corl_jax.data.answers.reading import is_correct, read_answer
from corl_jax.rewards.base import RewardContext, rewards, text_of
from corl_jax.rewards.parsing.answers import tags_once, well_formed
from corl_jax.rewards.parsing.boxes import box_score
from corl_jax.rewards.parsing.classes import class_f1
from corl_jax.rewards.parsing.math_equal import same_formula
from corl_jax.rewards.parsing.numbers import same_number
from corl_jax.rewards.parsing.soft_jaccard import soft_jaccard


def _compare_with_reference(
    compare: Callable[[str, str], float], completions: Sequence[Completion]
) -> Float[np.ndarray, "N"]:
    """``compare(answer, reference_answer)`` of every row, both as ``read_answer`` reads them."""
    values = []
    for completion in completions:
        answer = read_answer(text_of(completion))
        reference_answer = read_answer(completion.record.answer)
        values.append(float(compare(answer, reference_answer)))
    return np.array(values)


def _correctness(completions: Sequence[Completion]) -> Float[np.ndarray, "N"]:
    """1 where the answer is correct, otherwise 0."""
    values = []
    for completion in completions:
        record = completion.record
        correct = is_correct(text_of(completion), record.answer, record.qa_type, record.choices)
        values.append(float(correct))
    return np.array(values)


@rewards.register("accuracy")
def accuracy(completions: Sequence[Completion], context: RewardContext) -> Float[np.ndarray, "N"]:
    """1 where ``is_correct``, otherwise 0 (CoRL's R_Acc, R_MCQ-Acc and R_OE-Acc).

    Under ``rewards.options.open_ended=soft_jaccard`` it is ``accuracy_soft``.
    """
    if context.options.open_ended == "soft_jaccard":
        return accuracy_soft(completions, context)
    return _correctness(completions)


@rewards.register("accuracy_soft")
def accuracy_soft(
    completions: Sequence[Completion], context: RewardContext
) -> Float[np.ndarray, "N"]:
    """``accuracy`` with partial credit for wrong answers to open questions.

    They earn their ``soft_jaccard`` overlap with the reference answer (``qa_accuracy`` of ULM-R1's
    code). Multiple choice stays 0 or 1.
    """
    values = _correctness(completions)
    for row, completion in enumerate(completions):
        # Only wrong answers to open questions (OE) can earn partial credit.
        if not values[row] and completion.record.qa_type == "OE":
            # A closing full stop would make the last word differ from the reference answer's.
            answer = read_answer(text_of(completion)).rstrip(".,!?")
            values[row] = soft_jaccard(answer, read_answer(completion.record.answer))
    return values


@rewards.register("format")
def format_(completions: Sequence[Completion], context: RewardContext) -> Float[np.ndarray, "N"]:
    """1 where the text is ``<think>x</think><answer>y</answer>``, otherwise 0 (CoRL's R_Format).

    White space around the tags costs the reward under ``rewards.options.strict_whitespace``.
    """
    strict = context.options.strict_whitespace
    return np.array(
        [
            float(well_formed(text_of(completion), strict_whitespace=strict))
            for completion in completions
        ]
    )


@rewards.register("format_tags")
def format_tags(
    completions: Sequence[Completion], context: RewardContext
) -> Float[np.ndarray, "N"]:
    """A quarter for each of the four tags that occurs exactly once, see ``answers.tags_once``.

    After ``format_tag`` of ULM-R1's code, which gives an eighth for each.
    """
    return np.array([tags_once(text_of(completion)) for completion in completions])


@rewards.register("classes")
def classes(completions: Sequence[Completion], context: RewardContext) -> Float[np.ndarray, "N"]:
    """F1 of the object classes that the answer lists (for ULM-R1's ``oc_accuracy``).

    See ``classes.class_f1``.
    """
    return _compare_with_reference(class_f1, completions)


@rewards.register("boxes")
def boxes(completions: Sequence[Completion], context: RewardContext) -> Float[np.ndarray, "N"]:
    """IoU of the answer's boxes and the reference answer's, see ``boxes.box_score``."""
    return _compare_with_reference(box_score, completions)


@rewards.register("numeric")
def numeric(completions: Sequence[Completion], context: RewardContext) -> Float[np.ndarray, "N"]:
    """1 where the answer's only number is the reference answer's (OThink-MR1's counting reward).

    See ``numbers.same_number``.
    """
    return _compare_with_reference(same_number, completions)


@rewards.register("symbolic")
def symbolic(completions: Sequence[Completion], context: RewardContext) -> Float[np.ndarray, "N"]:
    """1 where answer and reference answer are mathematically equal (OThink-MR1's geometry reward).

    See ``math_equal.same_formula``.
    """
    return _compare_with_reference(same_formula, completions)
