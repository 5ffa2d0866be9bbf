"""The loss of reinforcement learning: clipped surrogate and KL term of all parts of the batch.

Runs inside the jitted update. Token weights carry the normalization (``objectives.token_weights``),
so that the loss is a plain weighted sum over tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from corl_jax.core.numerics import Metrics, Weighted
from corl_jax.core.trees import bind
from corl_jax.core.types import Params, PolicyBatch
from corl_jax.objectives import kl
from corl_jax.objectives.entropy_target import EntropyState, next_entropy_state
from corl_jax.objectives.external_samples import external_surrogate
from corl_jax.objectives.policy_gradient import importance_weights
from corl_jax.sampling.generate import PolicyFns
from corl_jax.sampling.log_probs import log_probs_and_entropy
from corl_jax.stages.rl.config import RlConfig
from corl_jax.stages.rl.parts import PARTS
from corl_jax.stages.rl.surrogate import surrogate


def policy_loss(
    policy: PolicyFns,
    cfg: RlConfig,
    params: Params,
    batch: Mapping[str, PolicyBatch],
    algo: Mapping[str, Any],
) -> tuple[Float[Array, ""], Metrics]:
    """Weighted sum of the parts' losses (OThink-MR1 Eq. 4, with CoRL's pairing of advantages).

    Args:
      policy: the programs that read ``params``.
      params: trainable and frozen parameters.
      batch: the batch by part, see ``parts.PARTS``.
      algo: task to its KL coefficient; ``entropy``, where targets are set, to those of the entropy.

    Returns:
      the loss, and metrics named ``PART/NAME``.
    """
    # Sorted, so that the sum does not depend on the order of the config.
    total, metrics = jnp.zeros(()), Metrics()
    for name, part in sorted(batch.items()):
        task, entropy_coefficient = PARTS[name].task, None
        # Of the task's own tokens: image tokens and texts beside them have other entropies.
        if cfg.loss.entropy_target[task] and name == task:
            entropy_coefficient = algo["entropy"][task].coefficient(cfg.loss.entropy_limit)
        loss, part_metrics = part_loss(
            policy, cfg, params, name, part, algo[task].coef, entropy_coefficient
        )
        total += cfg.loss.task_weight[task] * loss
        metrics |= {f"{name}/{column}": value for column, value in part_metrics.items()}
    return total, metrics


def part_loss(
    policy: PolicyFns,
    cfg: RlConfig,
    params: Params,
    name: str,
    part: PolicyBatch,
    kl_coefficient: Float[Array, ""],
    entropy_coefficient: Float[Array, ""] | None = None,
) -> tuple[Float[Array, ""], Metrics]:
    """One part's weighted sum over tokens, and metrics per token."""
    task = PARTS[name].task
    # Teacher-forced log-probs of the rollout under the parameters in training.
    log_probs, entropies = log_probs_and_entropy(
        bind(policy.graphdef, params),
        part.prompts,
        part.tokens,
        cfg.sampling_params(policy, name),
        policy.ids,
        PARTS[name].modality,
        cfg.log_prob_options(name),
        part.is_external,
    )

    per_token, ratio, is_clipped = surrogate(cfg.loss, task, log_probs, part)
    sampler_logp_diff = jnp.abs(log_probs - part.sampler_log_probs)
    # Of what the policy sampled itself; external samples have a rule of their own below.
    own_mask = part.own_mask
    metrics = {
        "entropy": Weighted.of(entropies, own_mask),
        "ratio": Weighted.of(ratio, own_mask),
        "clip_fraction": Weighted.of(is_clipped, own_mask),
        "sampler_logp_diff": Weighted.of(sampler_logp_diff, own_mask),
    }
    if part.rewards is not None:
        metrics |= reward_moments(part.rewards, tuple(cfg.rewards[name]))

    # Importance weights correct for a sampler with other weights or of another dtype.
    if cfg.loss.importance_cap:
        replayed = log_probs if part.old_log_probs is None else part.old_log_probs
        weights = importance_weights(replayed, part.sampler_log_probs, cfg.loss.importance_cap)
        per_token = weights * per_token
        metrics["importance_weight"] = Weighted.of(weights, own_mask)

    # The KL term and the entropy bonus.
    if part.ref_log_probs is not None:
        divergence = kl.estimators[cfg.kl[task].estimator](log_probs, part.ref_log_probs)
        if not cfg.kl[task].is_in_reward:
            penalty = kl_coefficient * divergence
            if part.kl_factors is not None:
                penalty = penalty * part.kl_factors
            per_token = per_token + penalty
        metrics |= {
            "kl": Weighted.of(divergence, own_mask),
            "kl_coefficient": Weighted.of(kl_coefficient),
        }
    if cfg.loss.entropy_bonus[task]:
        per_token = per_token - cfg.loss.entropy_bonus[task] * entropies
    if entropy_coefficient is not None:
        per_token = per_token + entropy_coefficient * entropies
        metrics["entropy_coefficient"] = Weighted.of(entropy_coefficient)

    if part.is_external is not None:
        per_token, external_metrics = with_external_samples(cfg, part, log_probs, per_token)
        metrics |= external_metrics
    return jnp.sum(jnp.where(part.mask, per_token, 0) * part.weights), metrics


def with_external_samples(
    cfg: RlConfig,
    part: PolicyBatch,
    log_probs: Float[Array, "B G T"],
    per_token: Float[Array, "B G T"],
) -> tuple[Float[Array, "B G T"], Metrics]:
    """Losses per token in which samples that the policy did not draw have their own rule.

    They have no ratio to the sampler, no KL term and no entropy.
    """
    is_external = part.is_external[..., None]
    external, weights = external_surrogate(
        log_probs, part.old_log_probs, part.advantages[..., None], cfg.external.exponent
    )
    metrics: Metrics = {
        "external_weight": Weighted.of(weights, part.mask & is_external),
        "external_log_prob": Weighted.of(log_probs, part.mask & is_external),
    }
    return jnp.where(is_external, external, per_token), metrics


def next_entropy_states(
    cfg: RlConfig, states: Mapping[str, EntropyState], metrics: Metrics
) -> dict[str, EntropyState]:
    """The states after an update; that of a task that did not train stays."""
    return {
        task: next_entropy_state(
            state,
            metrics[f"{task}/entropy"].value,
            cfg.entropy_targets[task],
            cfg.loss.entropy_rate,
            cfg.loss.entropy_limit,
        )
        if f"{task}/entropy" in metrics
        else state
        for task, state in states.items()
    }


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
