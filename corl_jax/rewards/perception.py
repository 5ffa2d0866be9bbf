"""Whether an answer states what the picture shows (Perception-R1, arXiv 2506.07218).

In: text completions; out: one number each. There the facts come from a stronger model and another
one judges whether they are stated; here they are the objects of a record, and words are compared.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from corl_jax.core.types import Completion
from corl_jax.rewards.base import RewardContext, rewards, text_of
from corl_jax.rewards.parsing.facts import facts_of, repeated_share, stated
from corl_jax.rewards.parsing.thinking import thinking


@rewards.register("perception")
def perception(completions: Sequence[Completion], context: RewardContext) -> Float[np.ndarray, "N"]:
    """The share of the record's objects that the thinking names, in [0, 1]; 0 without thinking.

    See ``facts.facts_of`` and ``facts.stated``. It asks for presence, not for truth: a text that
    also names what is not there loses nothing.
    """
    values = []
    for completion in completions:
        facts = facts_of(completion.record, "perception")
        thought = thinking(text_of(completion))
        values.append(0.0 if thought is None else stated(facts, thought))
    return np.array(values)


@rewards.register("repetition")
def repetition(completions: Sequence[Completion], context: RewardContext) -> Float[np.ndarray, "N"]:
    """``-2 (1 - unique / all)`` over runs of 20 words, in [-2, 0]: a penalty, so of weight 1."""
    return np.array([-2 * repeated_share(text_of(completion)) for completion in completions])
