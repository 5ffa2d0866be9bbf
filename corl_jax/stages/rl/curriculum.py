"""Measured success of a step: it weighs advantages, and decides which records come again."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from corl_jax.core.types import Rewards
from corl_jax.engine.stage import HostMetrics
from corl_jax.objectives.difficulty import difficulty_weights
from corl_jax.stages.rl.config import RlConfig
from corl_jax.stages.rl.config_blocks import TASKS

Successes = Mapping[str, Float[np.ndarray, "B"]]
"""Task to the share of samples of each group that succeeded."""


def success_shares(cfg: RlConfig, rewards: Mapping[str, Rewards]) -> Successes:
    """Shares of success of the tasks that ``config.rl.curriculum.success`` names.

    The same on every process, as the rewards are.
    """
    shares = {}
    for task, name in cfg.success_rewards.items():
        if task not in rewards:  # tasks that take turns
            continue
        column = rewards[task].matrix[:, rewards[task].names.index(name)]
        succeeded = column >= np.float32(cfg.curriculum.success_at)
        own = succeeded[cfg.own_samples(task, len(succeeded))]
        shares[task] = own.reshape(len(succeeded) // cfg.rollout.group_size, -1).mean(1)
    return shares


def weigh_by_difficulty(
    cfg: RlConfig,
    advantages: Mapping[str, Float[Array, "B G"]],
    rewards: Mapping[str, Rewards],
    step: int,
) -> tuple[dict[str, Float[Array, "B G"]], HostMetrics]:
    """Advantages times the weight of their group, and metrics.

    Paired tasks share their advantages, so they share the weights of the one that is measured.
    """
    shape, metrics = cfg.difficulty(step), {}
    if shape == "none":
        return dict(advantages), {}
    weights = {}
    for task, shares in success_shares(cfg, rewards).items():
        weights[task] = difficulty_weights[shape](shares)
        metrics[f"{task}/success"] = float(shares.mean())
        metrics[f"{task}/difficulty_weight"] = float(weights[task].mean())
    if cfg.advantage.pairing != "separate" and len(weights) == 1:
        tasks = [task for task in TASKS if task in advantages]
        weights = dict.fromkeys(tasks, next(iter(weights.values())))
    weighed = {
        task: advantage * jnp.asarray(weights[task], advantage.dtype)[:, None]
        if task in weights
        else advantage
        for task, advantage in advantages.items()
    }
    return weighed, metrics


def solved_shares(shares: Successes, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """What a step says about its records, for the history.

    Args:
      shares: by task; group ``i`` of every task is of record ``i``.
      rows: records of the step.

    Returns:
      the numbers of the records of which there is an outcome, and the least share of success of each
      over the tasks.
    """
    lowest = np.full(rows, np.inf)
    for values in shares.values():
        lowest[: len(values)] = np.minimum(lowest[: len(values)], values)
    measured = np.flatnonzero(np.isfinite(lowest))
    return measured, lowest[measured]
