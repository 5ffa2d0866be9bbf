"""Advantages of a step, from the rewards of all its samples."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float

from corl_jax.core.types import Rewards
from corl_jax.objectives.advantages import normalizations, paired_advantages
from corl_jax.stages.rl.config import RlConfig


def compute_advantages(
    cfg: RlConfig, rewards: Mapping[str, Rewards]
) -> dict[str, Float[Array, "B G"]]:
    """Task to advantages, paired as ``config.rl.advantage`` says; the same on every process."""
    c = cfg.advantage
    totals = {
        task: jnp.asarray(task_rewards.total).reshape(-1, cfg.rollout.group_size)
        for task, task_rewards in rewards.items()
    }

    # A task by itself has nothing to be paired with.
    if len(totals) == 1:
        normalize = normalizations[c.normalization]
        return {task: normalize(total, c.baseline) for task, total in totals.items()}

    image, text = paired_advantages(
        totals["image"],
        totals["text"],
        pairing=c.pairing,
        normalization=c.normalization,
        text_weight=c.pairing_text_weight,
        baseline=c.baseline,
    )
    return {"image": image, "text": text}
