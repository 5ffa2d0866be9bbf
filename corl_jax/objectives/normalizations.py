"""Advantages of each group from its rewards: what is subtracted, and what divides.

In: rewards ``[B, G]``, ``G`` completions of each of ``B`` prompts. Out: advantages of the same
shape.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

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


# Keeps the quotients of MaxRL and Pass@k finite, as in the code of both.
SMALL_EPSILON = 1e-6


@normalizations.register("maxrl")
def normalize_by_group_mean(
    rewards: Float[Array, "B G"], baseline: str = "mean"
) -> Float[Array, "B G"]:
    """``A_i = (r_i - mean(r)) / (mean(r) + 1e-6)`` within each group (MaxRL, arXiv 2602.02710).

    For rewards of 0 or 1 its mean is the gradient of ``pass@1 + pass@2 / 2 + ... + pass@G / G``,
    which tends to that of the log of the rate of success. Rewards must not be negative.
    """
    return baselines[baseline](rewards) / (jnp.mean(rewards, 1, keepdims=True) + SMALL_EPSILON)


@normalizations.register("pass_at_k")
def normalize_pass_at_k(
    rewards: Float[Array, "B G"], baseline: str = "mean", *, k: int
) -> Float[Array, "B G"]:
    """Advantages of the reward that the best of ``k`` samples earns (Pass@k, arXiv 2508.10751).

    The mean over all subsets of ``k`` samples of a group, with the standard deviation of ddof 0.
    With ``k = 1`` it is GRPO with that deviation. A group with fewer than ``k`` wrong samples has
    advantages of 0, since every subset succeeds.

    Args:
      rewards: 0 or 1.
      baseline: ``mean``; the method has its own.
      k: from 1 to ``G``.
    """
    size = rewards.shape[1]
    wrong = jnp.sum(rewards == 0, 1, keepdims=True)

    def share_of_subsets(wrong: Array, size: int, k: int) -> Array:
        """``C(wrong, k) / C(size, k)``: of the subsets of ``k``, those without a right sample."""
        share = jnp.ones(wrong.shape, rewards.dtype)
        for i in range(k):
            share = share * jnp.maximum(wrong - i, 0) / (size - i)
        return share

    mean = 1 - share_of_subsets(wrong, size, k)
    std = jnp.sqrt(mean * (1 - mean))
    # A wrong sample is judged by the subsets that it is in, whose other samples are k - 1.
    of_wrong = 1 - mean - share_of_subsets(wrong - 1, size - 1, k - 1)
    advantages = jnp.where(rewards == 0, of_wrong, 1 - mean) / (std + SMALL_EPSILON)
    # Quotients of rounding errors are no advantages.
    return jnp.where((wrong < k) | (wrong == size), 0.0, advantages)


def equal_rewards(rewards: Float[np.ndarray, "B G"]) -> Bool[np.ndarray, "B"]:
    """Groups whose rewards are all equal."""
    # Not from the standard deviation: that of equal numbers is not always exactly 0.
    return np.ptp(rewards, 1) == 0


@dataclasses.dataclass(frozen=True)
class Normalizer:
    """From rewards ``[B, G]`` to advantages of the same shape.

    Attributes:
      name: in ``normalizations``.
      baseline: in ``baselines``.
      pass_k: samples per attempt, for ``pass_at_k``.
    """

    name: str
    baseline: str = "mean"
    pass_k: int = 2

    def __call__(self, rewards: Float[Array, "B G"]) -> Float[Array, "B G"]:
        """Advantages."""
        more = {"k": self.pass_k} if self.name == "pass_at_k" else {}
        return normalizations[self.name](rewards, self.baseline, **more)

    def check(self, rewards: Float[np.ndarray, "B G"], what: str) -> None:
        """Checks that rewards have the range that the method is for.

        Args:
          rewards: on the host.
          what: they are, for the error.

        Raises:
          UserError: a negative reward for ``maxrl``, one that is neither 0 nor 1 for ``pass_at_k``.
        """
        if self.name == "maxrl" and (lowest := rewards.min()) < 0:
            raise UserError(
                "config.rl.advantage.normalization='maxrl' divides by the mean of a group, so "
                f"{what} must be at least 0; got {lowest:g}. Choose other rewards or weights, or "
                "normalization='group'"
            )
        if self.name == "pass_at_k" and (odd := rewards[(rewards != 0) & (rewards != 1)]).size:
            raise UserError(
                "config.rl.advantage.normalization='pass_at_k' counts right samples, so "
                f"{what} must be 0 or 1; got {odd[0]:g}. Name one strict reward of weight 1 in "
                "config.rewards and give the others weight 0, or choose normalization='group'"
            )

    def has_no_advantage(self, rewards: Float[np.ndarray, "B G"]) -> Bool[np.ndarray, "B"]:
        """Groups whose advantages are all 0: of equal rewards, or where every attempt succeeds."""
        flags = equal_rewards(rewards)
        if self.name == "pass_at_k":
            flags = flags | ((rewards == 0).sum(1) < self.pass_k)
        return flags
