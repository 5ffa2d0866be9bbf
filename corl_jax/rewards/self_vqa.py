"""Rewards for images about which the policy itself answers questions (self-VQA).

In: image completions; out: ``[N]`` in [0, 1], from the text reward of the same kind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from corl_jax.core.types import Completion
from corl_jax.data.question_templates import QuestionField, fill_in_question
from corl_jax.rewards.base import RewardContext, pixels_of, rewards


def answer_about_images(
    completions: Sequence[Completion],
    context: RewardContext,
    question_field: QuestionField,
    answer_field: str,
) -> list[Completion]:
    """Lets the policy answer a question about each image.

    Args:
      completions: ``N`` image completions.
      context: holds the policy that answers.
      question_field: the field of the record that holds the question.
      answer_field: the field of the record that holds the reference answer.

    Returns:
      ``N`` text completions with the policy's answers, whose records have the reference answer as
      their ``answer``, so that text rewards can score them.

    Raises:
      ValueError: a record without that question.
    """
    # Refuse records without the question before the policy spends time on the others.
    for completion in completions:
        if not vars(completion.record)[question_field]:
            raise ValueError(f"record {completion.record.id!r} has no {question_field}")

    # One call for all images: the policy answers them as one batch.
    images = np.stack([pixels_of(completion) for completion in completions])
    questions = [fill_in_question(completion.record, question_field) for completion in completions]
    answers = context.policy_handle.answers(images, questions)

    # Text rewards compare with ``record.answer``, whichever field the reference answer is in.
    records = [
        dataclasses.replace(completion.record, answer=vars(completion.record)[answer_field])
        for completion in completions
    ]
    return [Completion(record, text=text) for record, text in zip(records, answers, strict=True)]


@rewards.register("self_answer")
def self_answer(
    completions: Sequence[Completion], context: RewardContext
) -> Float[np.ndarray, "N"]:
    """Whether the policy answers the record's question correctly, see ``accuracy``."""
    answers = answer_about_images(completions, context, "question", "answer")
    return rewards["accuracy"](answers, context)


@rewards.register("self_classes")
def self_classes(
    completions: Sequence[Completion], context: RewardContext
) -> Float[np.ndarray, "N"]:
    """How well the policy lists the record's object classes from the image, see ``classes``."""
    answers = answer_about_images(completions, context, "class_question", "class_answer")
    return rewards["classes"](answers, context)


@rewards.register("self_boxes")
def self_boxes(completions: Sequence[Completion], context: RewardContext) -> Float[np.ndarray, "N"]:
    """How well the policy finds the record's objects in the image by their boxes, see ``boxes``."""
    answers = answer_about_images(completions, context, "box_question", "box_answer")
    return rewards["boxes"](answers, context)
