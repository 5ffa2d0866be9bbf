"""The loss of reinforcement learning: clipped surrogate and KL term of both tasks.

Runs inside the jitted update. Token weights carry the normalization (``objectives.token_weights``),
so that the loss is a plain weighted sum over tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from corl_jax.core.numerics import Metrics, Weighted
from corl_jax.core.trees import bind
from corl_jax.core.types import Params, PolicyBatch
from corl_jax.objectives import kl
from corl_jax.objectives.policy_gradient import importance_weights
from corl_jax.sampling.generate import PolicyFns
from corl_jax.sampling.log_probs import log_probs_and_entropy
from corl_jax.stages.rl.config import RlConfig
from corl_jax.stages.rl.surrogate import surrogate


def policy_loss(
    policy: PolicyFns,
    cfg: RlConfig,
    params: Params,
    batch: Mapping[str, PolicyBatch],
    algo: Mapping[str, kl.KlState],
) -> tuple[Float[Array, ""], Metrics]:
    """Weighted sum of the tasks' losses (OThink-MR1 Eq. 4, with CoRL's pairing of advantages).

    Args:
      policy: the programs that read ``params``.
      params: trainable and frozen parameters.
      batch: task to its part of the batch.
      algo: task to its KL coefficient.

    Returns:
      the loss, and metrics named ``TASK/NAME``.
    """
    # Sorted, so that the sum does not depend on the order of the config.
    total, metrics = jnp.zeros(()), Metrics()
    for task, part in sorted(batch.items()):
        loss, task_metrics = task_loss(policy, cfg, params, task, part, algo[task].coef)
        total += cfg.loss.task_weight[task] * loss
        metrics |= {f"{task}/{name}": value for name, value in task_metrics.items()}
    return total, metrics


def task_loss(
    policy: PolicyFns,
    cfg: RlConfig,
    params: Params,
    task: str,
    part: PolicyBatch,
    kl_coefficient: Float[Array, ""],
) -> tuple[Float[Array, ""], Metrics]:
    """One task's weighted sum over tokens, and metrics per token."""
    # Teacher-forced log-probs of the rollout under the parameters in training.
    log_probs, entropies = log_probs_and_entropy(
        bind(policy.graphdef, params),
        part.prompts,
        part.tokens,
        cfg.sampling_params(policy, task),
        policy.ids,
        "image" if task == "image" else "text",
        cfg.log_prob_options(task),
    )

    per_token, ratio, is_clipped = surrogate(cfg.loss, task, log_probs, part)
    sampler_logp_diff = jnp.abs(log_probs - part.sampler_log_probs)
    metrics = {
        "entropy": Weighted.of(entropies, part.mask),
        "ratio": Weighted.of(ratio, part.mask),
        "clip_fraction": Weighted.of(is_clipped, part.mask),
        "sampler_logp_diff": Weighted.of(sampler_logp_diff, part.mask),
    }
    if part.rewards is not None:
        metrics |= reward_moments(part.rewards, tuple(cfg.rewards[task]))

    # Importance weights correct for a sampler with other weights or of another dtype.
    if cfg.loss.importance_cap:
        replayed = log_probs if part.old_log_probs is None else part.old_log_probs
        weights = importance_weights(replayed, part.sampler_log_probs, cfg.loss.importance_cap)
        per_token = weights * per_token
        metrics["importance_weight"] = Weighted.of(weights, part.mask)

    # The KL term and the entropy bonus.
    if part.ref_log_probs is not None:
        divergence = kl.estimators[cfg.kl[task].estimator](log_probs, part.ref_log_probs)
        if not cfg.kl[task].is_in_reward:
            per_token = per_token + kl_coefficient * divergence
        metrics |= {
            "kl": Weighted.of(divergence, part.mask),
            "kl_coefficient": Weighted.of(kl_coefficient),
        }
    if cfg.loss.entropy_bonus[task]:
        per_token = per_token - cfg.loss.entropy_bonus[task] * entropies
    return jnp.sum(jnp.where(part.mask, per_token, 0) * part.weights), metrics


def reward_moments(rewards: Float[Array, "B G R"], names: tuple[str, ...]) -> Metrics:
    """First and second moments of every reward as metrics, which add up over micro-batches."""
    return {
        f"reward_moment_{power}/{name}": Weighted.of(rewards[..., i] ** power)
        for i, name in enumerate(names)
        for power in (1, 2)
    }


def summed_reward_moments(
    metrics: Metrics, task: str, names: tuple[str, ...]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Count, mean and sum of squared deviations ``[R]`` of a step's rewards.

    The inverse of ``reward_moments``, after the metrics of all micro-batches have been added.
    """
    first, second = (
        [metrics[f"{task}/reward_moment_{power}/{name}"] for name in names] for power in (1, 2)
    )
    count = jnp.stack([moment.weight for moment in first])
    mean = jnp.stack([moment.sum for moment in first]) / count
    squares = jnp.stack([moment.sum for moment in second])
    return count, mean, jnp.maximum(squares - count * mean**2, 0)
