"""The loss of the RL stage: scored tokens to clipped surrogate plus KL, each task weighted. Runs inside the update."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from corl_jax.core.numerics import Metrics, Weighted
from corl_jax.core.trees import bind
from corl_jax.core.types import Params, PolicyBatch
from corl_jax.objectives import kl
from corl_jax.objectives.policy_gradient import clipped_surrogate, importance_weights
from corl_jax.sampling.generate import PolicyFns
from corl_jax.sampling.log_probs import log_probs_and_entropy
from corl_jax.stages.rl.config import RlSettings


def policy_loss(
    sampler: PolicyFns,
    settings: RlSettings,
    params: Params,
    batch: Mapping[str, PolicyBatch],
    algo: Mapping[str, kl.KlState],
) -> tuple[jax.Array, Metrics]:
    """Weighted sum over all tokens of all tasks (OThink-MR1 Eq. 4 with CoRL's pairing of advantages).

    Args:
      sampler: model definition and special ids.
      settings: of the stage.
      params: trainable and frozen.
      batch: one ``PolicyBatch`` per task.
      algo: one KL coefficient per task.
    """
    total, metrics = jnp.zeros(()), Metrics()
    for task, part in sorted(batch.items()):
        loss, named = task_loss(sampler, settings, params, task, part, algo[task].coef)
        total += settings.share(task) * loss
        metrics |= {f"{task}/{name}": value for name, value in named.items()}
    return total, metrics


def task_loss(
    sampler: PolicyFns, s: RlSettings, params: Params, task: str, part: PolicyBatch, coef: Any
) -> tuple[jax.Array, Metrics]:
    """One task's weighted sum, and its metrics per token."""
    log_probs, entropies = log_probs_and_entropy(
        bind(sampler.graphdef, params),
        part.prompts,
        part.tokens,
        s.sampling(sampler, task),
        sampler.ids,
        modality="image" if task == "image" else "text",
        **s.scoring(task),
    )
    per_token, ratio, clipped = clipped_surrogate(
        log_probs,
        part.old_log_probs,
        part.advantages[..., None],
        clip=s.clip,
        epsilon_low=s.epsilon_low,
        epsilon_high=s.epsilon_high,
        ceiling=s.clip_ceiling,
    )
    metrics = {
        "entropy": Weighted.of(entropies, part.mask),
        "ratio": Weighted.of(ratio, part.mask),
        "clip_fraction": Weighted.of(clipped, part.mask),
        "sampler_logp_diff": Weighted.of(jnp.abs(log_probs - part.sampler_log_probs), part.mask),
    }
    if part.rewards is not None:
        metrics |= {
            f"reward_moment_{power}/{name}": Weighted.of(part.rewards[..., i] ** power)
            for i, name in enumerate(s.rewards[task])
            for power in (1, 2)
        }
    if s.importance_cap:
        anchor = log_probs if part.old_log_probs is None else part.old_log_probs
        weight = importance_weights(anchor, part.sampler_log_probs, s.importance_cap)
        per_token = weight * per_token
        metrics["importance_weight"] = Weighted.of(weight, part.mask)
    if part.ref_log_probs is not None:
        divergence = kl.estimators[s.kl[task].estimator](log_probs, part.ref_log_probs)
        per_token = per_token + coef * divergence
        metrics |= {"kl": Weighted.of(divergence, part.mask), "kl_coefficient": Weighted.of(coef)}
    if s.entropy_bonus[task]:
        per_token = per_token - s.entropy_bonus[task] * entropies
    return jnp.sum(jnp.where(part.mask, per_token, 0) * part.weights), metrics


def reward_sums(
    metrics: Metrics, task: str, names: tuple[str, ...]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Number, mean and sum of squared deviations ``[R]`` of a step's rewards, as ``task_loss`` added them up."""
    first, second = (
        [metrics[f"{task}/reward_moment_{power}/{name}"] for name in names] for power in (1, 2)
    )
    count = jnp.stack([one.weight for one in first])
    mean = jnp.stack([one.sum for one in first]) / count
    return count, mean, jnp.maximum(jnp.stack([one.sum for one in second]) - count * mean**2, 0)
