"""Group-relative advantages, and how the two tasks of one prompt share their rewards.

In: rewards ``[B, G]``, ``G`` completions of each of ``B`` prompts. Out: advantages of the same
shape, or one flag per group.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from corl_jax.core.errors import UserError
from corl_jax.core.registry import Registry

# Keeps the quotient finite where all rewards of a group are equal.
EPSILON = 1e-4

# Functions from rewards to rewards minus a baseline.
baselines: Registry[Callable[[Array], Array]] = Registry("baseline")


@baselines.register("mean")
def subtract_group_mean(rewards: Float[Array, "B G"]) -> Float[Array, "B G"]:
    """``r_i - mean(r)`` within each group (GRPO)."""
    return rewards - jnp.mean(rewards, 1, keepdims=True)


@baselines.register("leave_one_out")
def subtract_mean_of_others(rewards: Float[Array, "B G"]) -> Float[Array, "B G"]:
    """``r_i - mean(r_j, j != i)`` within each group (RLOO; Ahmadian et al., 2024).

    It equals ``G / (G - 1)`` times ``subtract_group_mean``.
    """
    # The mean of the other completions: the sum without this reward, over G - 1.
    others = (jnp.sum(rewards, 1, keepdims=True) - rewards) / (rewards.shape[1] - 1)
    return rewards - others


# Functions ``(rewards, baseline="mean")`` to advantages, whose divisor ignores the baseline.
normalizations: Registry[Callable[..., Array]] = Registry("advantage normalization")


@normalizations.register("group")
def normalize_by_group_std(
    rewards: Float[Array, "B G"], baseline: str = "mean"
) -> Float[Array, "B G"]:
    """``A_i = (r_i - mean(r)) / (std(r) + 1e-4)`` within each group (CoRL Eq. 1).

    The standard deviation has ddof 1, as in ULM-R1's code.
    """
    return baselines[baseline](rewards) / (jnp.std(rewards, 1, ddof=1, keepdims=True) + EPSILON)


@normalizations.register("batch")
def normalize_by_batch_std(
    rewards: Float[Array, "B G"], baseline: str = "mean"
) -> Float[Array, "B G"]:
    """Centred within each group, then divided by one standard deviation for the whole batch.

    This is REINFORCE++ with a group baseline: the standard deviation is that of the rewards minus
    the means of their groups. ``scale_rewards="batch"`` of TRL takes that of the rewards
    themselves, which is larger.
    """
    return baselines[baseline](rewards) / (jnp.std(subtract_group_mean(rewards), ddof=1) + EPSILON)


@normalizations.register("none")
def center_only(rewards: Float[Array, "B G"], baseline: str = "mean") -> Float[Array, "B G"]:
    """Centred within each group and not divided (Dr. GRPO)."""
    return baselines[baseline](rewards)


# See ``paired_advantages``.
PAIRINGS = ("unified", "separate", "sum_of_advantages")


def paired_advantages(
    image_rewards: Float[Array, "B G"],
    text_rewards: Float[Array, "E G"],
    *,
    pairing: str,
    normalization: str,
    text_weight: float,
    baseline: str = "mean",
) -> tuple[Float[Array, "B G"], Float[Array, "E G"]]:
    """Advantages of both tasks.

    Args:
      image_rewards: rewards of ``G`` images for each prompt.
      text_rewards: rewards of ``G`` answers. Row ``i`` belongs to the same record as row ``i`` of
        ``image_rewards``, unless ``pairing`` is ``separate``.
      pairing: which rewards make an advantage.

        * ``unified``: image ``i`` and answer ``i`` of a record share the reward
          ``r_image + text_weight * r_text`` and its advantage (CoRL Eq. 5, 6).
        * ``separate``: each task has advantages from its rewards alone.
        * ``sum_of_advantages``: they share ``A_image + text_weight * A_text``, which is not
          normalized again.
      normalization: a name in ``normalizations``.
      text_weight: ``lambda``, 0.8 in the paper.
      baseline: a name in ``baselines``.

    Returns:
      advantages of the images, and of the answers.

    Raises:
      UserError: an unknown name, or rows that cannot be paired.
    """
    normalize = functools.partial(normalizations[normalization], baseline=baseline)
    if pairing == "separate":
        return normalize(image_rewards), normalize(text_rewards)

    # Sample i of one task is paired with sample i of the other, so their numbers must be equal.
    if pairing not in PAIRINGS:
        raise UserError(f"unknown pairing {pairing!r}; expected one of {', '.join(PAIRINGS)}")
    if image_rewards.shape != text_rewards.shape:
        raise UserError(
            f"pairing {pairing!r} needs as many answers as images, but their shapes are "
            f"{text_rewards.shape} and {image_rewards.shape}; use equal numbers of text and image "
            "prompts, or choose pairing='separate'"
        )

    # Both tasks get the same advantages: of the sum of rewards, or the sum of advantages.
    if pairing == "unified":
        shared = normalize(image_rewards + text_weight * text_rewards)
    else:
        shared = normalize(image_rewards) + text_weight * normalize(text_rewards)
    return shared, shared


def zero_std_groups(
    totals: Mapping[str, Float[np.ndarray, "B G"]], *, pairing: str, text_weight: float
) -> dict[str, Bool[np.ndarray, "B"]]:
    """Groups in which all advantages are 0, because all their rewards are equal.

    Args:
      totals: task to total rewards. With both tasks, ``pairing`` says which rewards make an
        advantage.
      pairing, text_weight: as in ``paired_advantages``.

    Returns:
      task to one flag per group.
    """

    # On the rewards themselves, as the standard deviation of equal numbers is not always exactly 0.
    def all_equal(rewards: np.ndarray) -> np.ndarray:
        return np.ptp(rewards, 1) == 0

    if pairing == "separate" or len(totals) == 1:
        return {task: all_equal(rewards) for task, rewards in totals.items()}

    # Paired tasks share their advantages, so they share their flags.
    image, text = totals["image"], totals["text"]
    shared = (
        all_equal(image + text_weight * text)
        if pairing == "unified"
        else all_equal(image) & all_equal(text)
    )
    return {"image": shared, "text": shared}
