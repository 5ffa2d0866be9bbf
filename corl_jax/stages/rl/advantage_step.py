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
from corl_jax.stages.rl.config_blocks import TASKS


def compute_advantages(
    cfg: RlConfig, rewards: Mapping[str, Rewards]
) -> dict[str, Float[Array, "B G"]]:
    """Part to advantages, paired as ``config.rl.advantage`` says; the same on every process.

    Raises:
      UserError: a reward that the normalization is not for.
    """
    advantages: dict[str, Float[Array, "B G"]] = {}
    for together in _compared_together(rewards):
        if cfg.advantage.sums_normalized_parts:
            advantages |= _advantages_of_parts(cfg, together)
        else:
            advantages |= _advantages_of_totals(cfg, together)
    return advantages


def silent_groups(
    cfg: RlConfig, rewards: Mapping[str, Rewards], pairing: str
) -> dict[str, Bool[np.ndarray, "B"]]:
    """Part to the groups in which all advantages are 0.

    Where rewards are normalized one by one, such a group has equal values of each.

    Args:
      pairing: ``config.rl.advantage.pairing``, or ``separate`` to look at each task by itself.
    """
    c = cfg.advantage
    silent: dict[str, Bool[np.ndarray, "B"]] = {}
    for together in _compared_together(rewards):
        if not c.sums_normalized_parts:
            silent |= zero_std_groups(
                _totals(cfg, together),
                pairing=pairing,
                text_weight=c.pairing_text_weight,
                is_silent=c.normalizer.has_no_advantage,
            )
            continue
        # A pair shares the rewards of both tasks, so neither may have any that differs.
        values = {
            part: _parts(cfg, part_rewards)[..., cfg.reward_weights(part) != 0]
            for part, part_rewards in together.items()
        }
        silent |= zero_std_groups(
            values,
            pairing="separate" if pairing == "separate" else "sum_of_advantages",
            text_weight=c.pairing_text_weight,
            is_silent=equal_parts,
        )
    return silent


def _compared_together(rewards: Mapping[str, Rewards]) -> list[dict[str, Rewards]]:
    """The tasks, which may be paired; then each part by itself that is none, and earns its own."""
    tasks = {task: rewards[task] for task in TASKS if task in rewards}
    return [tasks, *({part: rewards[part]} for part in rewards if part not in tasks)]


def _advantages_of_totals(
    cfg: RlConfig, rewards: Mapping[str, Rewards]
) -> dict[str, Float[Array, "B G"]]:
    """Advantages of the weighted sums of rewards."""
    c, totals = cfg.advantage, _totals(cfg, rewards)
    for part, total in totals.items():
        c.normalizer.check(total, f"rewards of {part} samples")
    values = {part: jnp.asarray(total) for part, total in totals.items()}

    # One by itself has nothing to be paired with.
    if len(values) == 1:
        return {part: c.normalizer(total) for part, total in values.items()}

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
