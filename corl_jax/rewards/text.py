"""Rewards of answers: right, and in the asked form. In: text completions; out: 0 or 1 each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from corl_jax.core.types import Completion
from corl_jax.rewards.answers import is_right, well_formed
from corl_jax.rewards.base import RewardContext, rewards


def text_of(completion: Completion) -> str:
    """The text of a text completion."""
    if completion.text is None:
        raise ValueError("this reward reads texts, but the completion is a picture")
    return completion.text


@rewards.register("accuracy")
def accuracy(completions: Sequence[Completion], context: RewardContext) -> np.ndarray:
    """1 where the answer is right, see ``answers.is_right`` (CoRL's R_Acc)."""
    return np.array(
        [float(is_right(text_of(c), c.record.answer, c.record.qa_type, c.record.choices)) for c in completions]
    )


@rewards.register("format")
def format_(completions: Sequence[Completion], context: RewardContext) -> np.ndarray:
    """1 where thinking and answer stand in their tags, ``<think>x</think><answer>y</answer>`` (CoRL's R_Format)."""
    return np.array([float(well_formed(text_of(c))) for c in completions])
