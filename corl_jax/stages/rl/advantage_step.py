"""Advantages of a step, from the rewards of all its samples."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float

from corl_jax.core.types import Rewards
from corl_jax.objectives.advantages import normalizations, paired_advantages
from corl_jax.stages.rl.config import RlConfig
from corl_jax.stages.rl.config_blocks import TASKS


def compute_advantages(
    cfg: RlConfig, rewards: Mapping[str, Rewards]
) -> dict[str, Float[Array, "B G"]]:
    """Part to advantages, paired as ``config.rl.advantage`` says; the same on every process.

    Parts that are no task, and earn rewards of their own, are paired with none.
    """
    c = cfg.advantage
    totals = {
        task: jnp.asarray(task_rewards.total).reshape(-1, cfg.rollout.group_size)
        for task, task_rewards in rewards.items()
    }

    # A task by itself has nothing to be paired with.
    tasks = [task for task in TASKS if task in totals]
    alone = [part for part in totals if part not in tasks or len(tasks) == 1]
    normalize = normalizations[c.normalization]
    advantages = {part: normalize(totals[part], c.baseline) for part in alone}
    if len(alone) == len(totals):
        return advantages

    image, text = paired_advantages(
        totals["image"],
        totals["text"],
        pairing=c.pairing,
        normalization=c.normalization,
        text_weight=c.pairing_text_weight,
        baseline=c.baseline,
    )
    return {"image": image, "text": text} | advantages
