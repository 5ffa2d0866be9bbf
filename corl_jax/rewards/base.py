"""The registry of rewards and their weighted combination. In: completions; out: ``Rewards``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from corl_jax.core.errors import UserError, describe_error
from corl_jax.core.registry import Registry
from corl_jax.core.types import Completion, PolicyHandle, Rewards
from corl_jax.reward_models.collection import RewardModels
from corl_jax.rewards.config import RewardSettings


@dataclasses.dataclass(frozen=True)
class RewardContext:
    """What a reward may need beside completions.

    Attributes:
      policy: a narrow handle on the policy in training, or None.
      models: reward models, or None.
      settings: choices that several rewards share.
    """

    policy: PolicyHandle | None = None
    models: RewardModels | None = None
    settings: RewardSettings = RewardSettings()

    @property
    def reader(self) -> PolicyHandle:
        """The policy; an error without one."""
        if self.policy is None:
            raise ValueError("this reward reads with the policy, but no policy was handed in")
        return self.policy

    @property
    def reward_models(self) -> RewardModels:
        """The reward models; an error without them."""
        if self.models is None:
            raise ValueError("this reward needs a reward model, but none was handed in")
        return self.models


RewardFn = Callable[[Sequence[Completion], RewardContext], np.ndarray]
"""``N`` completions to ``N`` finite floats, row by row."""

rewards: Registry[RewardFn] = Registry("reward")


def compute_rewards(
    completions: Sequence[Completion], table: Mapping[str, float], context: RewardContext
) -> Rewards:
    """Every reward of ``table`` on every completion.

    Args:
      completions: ``N`` of them.
      table: reward name to weight; weight 0 is computed and logged only.
      context: see ``RewardContext``.

    Raises:
      UserError: an unknown name, no reward at all, or a reward that fails or gives something that is no number; it
        names the reward, the row and the cause. A failure is never a silent zero.
    """
    if not table:
        raise UserError("no reward is configured; name at least one in the config's rewards block")
    columns = [_column(name, completions, context) for name in table]
    matrix = np.stack(columns, 1).astype(np.float32)
    return Rewards(tuple(table), matrix, matrix @ np.asarray(list(table.values()), np.float32))


def _column(name: str, completions: Sequence[Completion], context: RewardContext) -> np.ndarray:
    function = rewards[name]
    try:
        values = np.asarray(function(completions, context), np.float64)
    except Exception as error:
        row = _failing_row(function, completions, context)
        raise UserError(
            f"reward {name!r} failed on {row or f'the batch as a whole: {describe_error(error)}'}"
        ) from error
    if values.shape != (len(completions),):
        raise UserError(
            f"reward {name!r} gave shape {values.shape}; expected one number for each of {len(completions)}"
        )
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        record = completions[bad[0]].record.id
        raise UserError(
            f"reward {name!r} gave {values[bad[0]]} on row {bad[0]} (record {record!r}); expected a number"
        )
    return values


def _failing_row(
    function: RewardFn, completions: Sequence[Completion], context: RewardContext
) -> str:
    """The first row that fails on its own, and how; empty if none does."""
    for i, completion in enumerate(completions):
        try:
            function([completion], context)
        except Exception as error:
            return f"row {i} (record {completion.record.id!r}): {describe_error(error)}"
    return ""
