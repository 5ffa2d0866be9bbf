"""The registry of rewards and their weighted sum.

A reward is a function from ``N`` completions to ``N`` numbers, registered under a name. A config
chooses rewards by name and gives each a weight; ``compute_rewards`` evaluates all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Float, UInt8

from corl_jax.core.errors import SharedError, StopRequested, UserError, describe_error
from corl_jax.core.registry import Registry
from corl_jax.core.time_limits import TimeIsUp
from corl_jax.core.types import Completion, Judge, PolicyHandle, Rewards
from corl_jax.data.records import record_label
from corl_jax.reward_models.collection import RewardModels
from corl_jax.rewards.config import RewardOptions
from corl_jax.rewards.failing_rows import (
    NotAlone,
    find_failing_row,
    find_slow_row,
    reward_time_limit,
)


@dataclasses.dataclass(frozen=True)
class RewardContext:
    """What a reward may need besides the completions.

    Attributes:
      policy: a narrow handle on the policy in training, or None.
      models: the reward models, or None.
      options: options that several rewards share.
      is_alone: whether one of several processes computes by itself. Then there is neither a policy
        nor a model, since all processes compute with them together.
    """

    policy: PolicyHandle | None = None
    models: RewardModels | None = None
    options: RewardOptions = RewardOptions()
    is_alone: bool = False

    @property
    def policy_handle(self) -> PolicyHandle:
        """``policy``, for a reward that cannot do without one.

        Raises:
          ValueError: the context has no policy.
        """
        if self.is_alone:
            raise NotAlone
        if self.policy is None:
            raise ValueError(
                "this reward needs a policy, but none was passed; with corl score, add --policy"
            )
        return self.policy

    @property
    def reward_models(self) -> RewardModels:
        """``models``, for a reward that cannot do without them.

        Raises:
          ValueError: the context has no reward models.
        """
        if self.is_alone:
            raise NotAlone
        if self.models is None:
            raise ValueError(
                "this reward needs a reward model, but none was passed; set RewardContext.models"
            )
        return self.models


RewardFn = Callable[[Sequence[Completion], RewardContext], np.ndarray]
"""From ``N`` completions to ``N`` finite floats, in the order of the completions."""

rewards: Registry[RewardFn] = Registry("reward")


def compute_rewards(
    completions: Sequence[Completion], weights: Mapping[str, float], context: RewardContext
) -> Rewards:
    """Evaluates every reward of ``weights`` on every completion.

    Args:
      completions: ``N`` completions of one task.
      weights: reward name to weight; a reward of weight 0 is computed for logging only.
      context: see ``RewardContext``.

    Returns:
      The rewards, float32: one column per reward ``[N, R]`` and their weighted sum ``[N]``.

    Raises:
      UserError: an unknown name, no reward at all, or a reward that fails or returns something
        other than one finite number per completion. The error names the reward, the row and the
        cause; a reward that fails never counts as 0 silently.
    """
    if not weights:
        raise UserError("no reward is configured; name at least one in the config's rewards block")

    columns = [_reward_column(name, completions, context) for name in weights]
    # Values that fit may have a weighted sum that does not.
    matrix = np.stack(columns, 1)
    with np.errstate(over="ignore", invalid="ignore"):
        total = matrix @ np.asarray(list(weights.values()), np.float32)
    _check_finite("the weighted sum of rewards must be", total, total, completions)
    return Rewards(tuple(weights), matrix, total)


def _reward_column(
    name: str, completions: Sequence[Completion], context: RewardContext
) -> Float[np.ndarray, "N"]:
    """The values of one reward in float32, checked to be one finite number per completion."""
    reward, options = rewards[name], context.options
    try:
        with reward_time_limit(name, options.timeout):
            values = np.asarray(reward(completions, context), np.float64)
    except (SharedError, StopRequested):
        raise
    except TimeIsUp:
        row = find_slow_row(name, _without_others(reward, context), completions, options.timeout)
        raise UserError(
            f"reward {name!r} took longer than {options.timeout:g} seconds on {row}. Correct the "
            "reward, or set --config.rewards.options.timeout to more seconds, or to 0 for any time"
        ) from None
    except Exception as error:
        row = find_failing_row(name, _without_others(reward, context), completions)
        cause = row or f"the batch as a whole: {describe_error(error)}"
        raise UserError(f"reward {name!r} failed on {cause}") from error

    # Rewards may come from a user's code, so nothing about their values is taken for granted.
    if values.shape != (len(completions),):
        raise UserError(
            f"reward {name!r} must return one number for each of {len(completions)} completions; "
            f"got shape {values.shape}. Return an array [N] in the order of the completions."
        )

    # Rewards are logged and trained on in float32, which is infinite beyond 3.4e38.
    with np.errstate(over="ignore"):
        column = values.astype(np.float32)
    _check_finite(f"reward {name!r} must be", column, values, completions)
    return column


def _check_finite(
    requirement: str, column: np.ndarray, values: np.ndarray, completions: Sequence[Completion]
) -> None:
    """Raises UserError for the first row of ``column`` that is not finite; ``values`` are named."""
    invalid_rows = np.flatnonzero(~np.isfinite(column))
    if invalid_rows.size:
        row = invalid_rows[0]
        raise UserError(
            f"{requirement} finite in float32; got {values[row]} on row {row} "
            f"({record_label(completions[row].record)}). Check the reward on that record."
        )


def _without_others(
    reward: RewardFn, context: RewardContext
) -> Callable[[Sequence[Completion]], np.ndarray]:
    """``reward`` for a process that computes a row by itself.

    With several processes it has neither policy nor models: all compute with those together, and
    would wait for each other.
    """
    if jax.process_count() > 1:
        context = dataclasses.replace(context, policy=None, models=None, is_alone=True)
    return lambda completions: reward(completions, context)


def judge_of(context: RewardContext) -> Judge:
    """Whose log-probs a reward takes, ``rewards.options.likelihood_judge``."""
    return "policy" if context.options.likelihood_judge == "policy" else "reference"


def pixels_of(completion: Completion) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of an image completion.

    Raises:
      ValueError: the completion is a text.
    """
    if completion.pixels is None:
        raise ValueError("this reward needs an image, but the completion is a text")
    return completion.pixels


def text_of(completion: Completion) -> str:
    """The text of a text completion.

    Raises:
      ValueError: the completion is an image.
    """
    if completion.text is None:
        raise ValueError("this reward needs a text, but the completion is an image")
    return completion.text
