"""Rewards for which the policy reads its own pictures. In: picture completions; out: a number each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from corl_jax.core.types import Completion
from corl_jax.rewards.base import RewardContext, rewards
from corl_jax.rewards.shapes import pixels_of


def vqa_rewards(
    completions: Sequence[Completion], context: RewardContext, question: str, answer: str
) -> list[Completion]:
    """The policy's answers about its pictures, as if they had been asked of it.

    Args:
      question, answer: fields of the record.

    Raises:
      ValueError: a record does not have them.
    """
    for completion in completions:
        if not vars(completion.record)[question]:
            raise ValueError(f"record {completion.record.id!r} has no {question}")
    questions = [vars(c.record)[question] for c in completions]
    said = context.reader.answers(np.stack([pixels_of(c) for c in completions]), questions)
    records = [dataclasses.replace(c.record, answer=vars(c.record)[answer]) for c in completions]
    return [Completion(record, text=text) for record, text in zip(records, said, strict=True)]


@rewards.register("self_answer")
def self_answer(completions: Sequence[Completion], context: RewardContext) -> np.ndarray:
    """Whether the record's question is answered rightly from the picture."""
    return rewards["accuracy"](vqa_rewards(completions, context, "question", "answer"), context)


@rewards.register("self_classes")
def self_classes(completions: Sequence[Completion], context: RewardContext) -> np.ndarray:
    """Whether the policy finds the classes of the record in the picture, see the reward ``classes``."""
    return rewards["classes"](
        vqa_rewards(completions, context, "class_question", "class_answer"), context
    )


@rewards.register("self_boxes")
def self_boxes(completions: Sequence[Completion], context: RewardContext) -> np.ndarray:
    """Whether it finds the objects where the record has them, see the reward ``boxes``."""
    return rewards["boxes"](
        vqa_rewards(completions, context, "box_question", "box_answer"), context
    )
