"""Advantages of a step, from the rewards of all its samples, and groups that have none."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from corl_jax.core.types import Rewards
from corl_jax.objectives.advantages import paired_advantages, zero_std_groups
from corl_jax.objectives.reward_parts import equal_parts, normalized_sum, whiten
from corl_jax.stages.rl.config import RlConfig


def compute_advantages(
    cfg: RlConfig, rewards: Mapping[str, Rewards]
) -> dict[str, Float[Array, "B G"]]:
    """Task to advantages, paired as ``config.rl.advantage`` says; the same on every process.

    Raises:
      UserError: a reward that the normalization is not for.
    """
    c = cfg.advantage
    if c.sums_normalized_parts:
        return _advantages_of_parts(cfg, rewards)

    normalizer, totals = c.normalizer, _totals(cfg, rewards)
    for task, total in totals.items():
        normalizer.check(total, f"rewards of {task} samples")
    values = {task: jnp.asarray(total) for task, total in totals.items()}

    # A task by itself has nothing to be paired with.
    if len(values) == 1:
        return {task: normalizer(total) for task, total in values.items()}

    image, text = paired_advantages(
        values["image"],
        values["text"],
        pairing=c.pairing,
        normalization=c.normalization,
        text_weight=c.pairing_text_weight,
        baseline=c.baseline,
        pass_k=c.pass_k,
    )
    return {"image": image, "text": text}


def silent_groups(
    cfg: RlConfig, rewards: Mapping[str, Rewards], pairing: str
) -> dict[str, Bool[np.ndarray, "B"]]:
    """Task to the groups in which all advantages are 0.

    Where rewards are normalized one by one, such a group has equal values of each.

    Args:
      pairing: ``config.rl.advantage.pairing``, or ``separate`` to look at each task by itself.
    """
    c = cfg.advantage
    if not c.sums_normalized_parts:
        return zero_std_groups(
            _totals(cfg, rewards),
            pairing=pairing,
            text_weight=c.pairing_text_weight,
            is_silent=c.normalizer.has_no_advantage,
        )
    # A pair shares the parts of both tasks, so neither may have any that differs.
    parts = {
        task: _parts(cfg, task_rewards)[..., cfg.reward_weights(task) != 0]
        for task, task_rewards in rewards.items()
    }
    return zero_std_groups(
        parts,
        pairing="separate" if pairing == "separate" else "sum_of_advantages",
        text_weight=c.pairing_text_weight,
        is_silent=equal_parts,
    )


def _advantages_of_parts(
    cfg: RlConfig, rewards: Mapping[str, Rewards]
) -> dict[str, Float[Array, "B G"]]:
    """Advantages of rewards that are normalized one by one, added, and whitened over the step."""
    sums = {
        task: normalized_sum(jnp.asarray(_parts(cfg, task_rewards)), cfg.reward_weights(task))
        for task, task_rewards in rewards.items()
    }
    pairing, text_weight = cfg.advantage.pairing, cfg.advantage.pairing_text_weight
    if pairing == "separate" or len(sums) == 1:
        return {task: whiten(total) for task, total in sums.items()}

    # The parts of both tasks make one sum, or each task's sum is whitened by itself.
    if pairing == "unified":
        shared = whiten(sums["image"] + text_weight * sums["text"])
    else:
        shared = whiten(sums["image"]) + text_weight * whiten(sums["text"])
    return {"image": shared, "text": shared}


def _totals(cfg: RlConfig, rewards: Mapping[str, Rewards]) -> dict[str, Float[np.ndarray, "B G"]]:
    group_size = cfg.rollout.group_size
    return {task: values.total.reshape(-1, group_size) for task, values in rewards.items()}


def _parts(cfg: RlConfig, rewards: Rewards) -> Float[np.ndarray, "B G R"]:
    return rewards.matrix.reshape(-1, cfg.rollout.group_size, len(rewards.names))
