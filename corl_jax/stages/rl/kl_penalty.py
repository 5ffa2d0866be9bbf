"""The KL term on the side of the rewards: each sample's divergence is subtracted from its reward.

As in PPO and RLOO (``kl_coef`` of TRL's trainers, ``algorithm.use_kl_in_reward`` of verl): the penalty of
a sample is the coefficient times the sum of the estimator over its tokens, under the policy that
sampled.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from corl_jax.core.sharding import to_host
from corl_jax.core.types import PolicyBatch, Rewards
from corl_jax.engine.stage import HostMetrics
from corl_jax.objectives import kl
from corl_jax.stages.rl.config import RlConfig
from corl_jax.stages.rl.parts import PARTS, parts_rewarded_as


def subtract_kl_penalties(
    cfg: RlConfig,
    rewards: Mapping[str, Rewards],
    policy_batch: Mapping[str, PolicyBatch],
    algo: Mapping[str, Any],
) -> tuple[dict[str, Rewards], HostMetrics]:
    """Totals without the KL penalties, and their mean by part, ``PART/kl_penalty``.

    Parts of tasks whose KL term is elsewhere keep their rewards. A sample pays for the tokens of all
    parts that earn its reward.

    Args:
      cfg: ``kl`` says where the term of each task is.
      rewards: of all samples of the step, the same on every process.
      policy_batch: part to its log-probs, old and of the reference policy.
      algo: task to its KL coefficient.
    """
    penalized, metrics = dict(rewards), {}
    for name, part_rewards in rewards.items():
        task = PARTS[name].task
        if not cfg.kl[task].is_in_reward:
            continue
        coefficient = float(jax.device_get(algo[task].coef))
        divergences = sum(
            to_host(sequence_kl(cfg.kl[task].estimator, policy_batch[part])).reshape(-1)
            for part in parts_rewarded_as(name, policy_batch)
        )
        penalty = coefficient * divergences
        penalized[name] = dataclasses.replace(part_rewards, total=part_rewards.total - penalty)
        metrics[f"{name}/kl_penalty"] = float(penalty.mean())
    return penalized, metrics


@functools.partial(jax.jit, static_argnums=0)
def sequence_kl(estimator: str, part: PolicyBatch) -> Float[Array, "B G"]:
    """Sum of a KL estimator over the tokens of each completion."""
    divergence = kl.estimators[estimator](part.old_log_probs, part.ref_log_probs)
    return jnp.sum(jnp.where(part.own_mask, divergence, 0), -1)
