"""Group-relative advantages, and how the two tasks of one prompt are paired. In: rewards ``[B, G]``; out: the same
shape, or one flag per group."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from corl_jax.core.errors import UserError
from corl_jax.core.registry import Registry

EPSILON = 1e-4

baselines: Registry[Callable[[Array], Array]] = Registry("baseline")


@baselines.register("mean")
def subtract_group_mean(rewards: Float[Array, "B G"]) -> Float[Array, "B G"]:
    """Less the mean of the group (GRPO)."""
    return rewards - jnp.mean(rewards, 1, keepdims=True)


@baselines.register("leave_one_out")
def subtract_mean_of_others(rewards: Float[Array, "B G"]) -> Float[Array, "B G"]:
    """Less the mean of the others in the group (RLOO; Ahmadian et al., 2024): ``G / (G - 1)`` of ``subtract_group_mean``."""
    others = (jnp.sum(rewards, 1, keepdims=True) - rewards) / (rewards.shape[1] - 1)
    return rewards - others


normalizations: Registry[Callable[..., Array]] = Registry("advantage scale")
"""``(rewards, baseline="mean")`` to advantages. What is divided by does not depend on the baseline."""


@normalizations.register("group")
def normalize_by_group_std(
    rewards: Float[Array, "B G"], baseline: str = "mean"
) -> Float[Array, "B G"]:
    """``(r - mean) / (std + 1e-4)`` within the group, std with ddof 1 (CoRL Eq. 1, as its code has it)."""
    return baselines[baseline](rewards) / (jnp.std(rewards, 1, ddof=1, keepdims=True) + EPSILON)


@normalizations.register("batch")
def normalize_by_batch_std(
    rewards: Float[Array, "B G"], baseline: str = "mean"
) -> Float[Array, "B G"]:
    """Centred within the group, divided by the std of all that is centred so in the batch (REINFORCE++ with a group
    baseline). ``scale_rewards="batch"`` of TRL takes the std of the rewards themselves, which is larger."""
    return baselines[baseline](rewards) / (jnp.std(subtract_group_mean(rewards), ddof=1) + EPSILON)


@normalizations.register("none")
def center_only(rewards: Float[Array, "B G"], baseline: str = "mean") -> Float[Array, "B G"]:
    """Centred within the group only (Dr. GRPO)."""
    return baselines[baseline](rewards)


PAIRINGS = ("unified", "separate", "sum_of_advantages")


def paired_advantages(
    image: Float[Array, "B G"],
    text: Float[Array, "E G"],
    *,
    pairing: str,
    scale: str,
    text_weight: float,
    baseline: str = "mean",
) -> tuple[Float[Array, "B G"], Float[Array, "E G"]]:
    """Advantages of both tasks.

    Args:
      image: rewards of ``G`` pictures of each prompt.
      text: rewards of ``G`` answers; row ``i`` belongs to the record of picture row ``i`` unless ``separate``.
      pairing: ``unified``: the i-th picture and the i-th answer share the reward ``image + text_weight * text`` and its
        advantage (CoRL Eq. 5, 6); ``separate``: each task its own; ``sum_of_advantages``: both share
        ``A_image + text_weight * A_text``, not renormalised.
      scale: a name in ``normalizations``.
      text_weight: lambda, 0.8 in the paper.
      baseline: a name in ``baselines``.

    Raises:
      UserError: unknown name, or rows that cannot be paired.
    """
    normalise = functools.partial(normalizations[scale], baseline=baseline)
    if pairing == "separate":
        return normalise(image), normalise(text)
    if pairing not in PAIRINGS:
        raise UserError(f"unknown pairing {pairing!r}; expected one of {', '.join(PAIRINGS)}")
    if image.shape != text.shape:
        raise UserError(
            f"pairing {pairing!r} needs as many answers as pictures, but they are {text.shape} and {image.shape}; "
            "ask the same number of questions and prompts, or choose pairing='separate'"
        )
    if pairing == "unified":
        shared = normalise(image + text_weight * text)
    else:
        shared = normalise(image) + text_weight * normalise(text)
    return shared, shared


def zero_std_groups(
    totals: Mapping[str, Float[np.ndarray, "B G"]], *, pairing: str, text_weight: float
) -> dict[str, Bool[np.ndarray, "B"]]:
    """By task, the groups whose advantages are all 0, since their rewards are all equal.

    Args:
      totals: by task; with both, ``pairing`` says whose rewards an advantage is made of.
      pairing, text_weight: as in ``paired_advantages``.
    """

    def equal(rewards: np.ndarray) -> np.ndarray:
        return np.ptp(rewards, 1) == 0

    if pairing == "separate" or len(totals) == 1:
        return {task: equal(rewards) for task, rewards in totals.items()}
    image, text = totals["image"], totals["text"]
    both = equal(image + text_weight * text) if pairing == "unified" else equal(image) & equal(text)
    return {"image": both, "text": both}
