"""The surrogate that ``config.rl.loss.clip`` names, for one task."""

from __future__ import annotations

import jax
from jaxtyping import Array, Float

from corl_jax.core.types import PolicyBatch
from corl_jax.objectives.policy_gradient import clipped_surrogate
from corl_jax.objectives.surrogates import Surrogate, cispo, gspo, sapo
from corl_jax.stages.rl.config_blocks import LossConfig


def surrogate(
    c: LossConfig, task: str, log_probs: Float[Array, "B G T"], part: PolicyBatch
) -> Surrogate:
    """Loss, ratio, and 1.0 where the bound is active, ``[B, G, T]``.

    Without old log-probs the policy is the one that sampled, and the ratio is 1.
    """
    advantages = token_advantages(part)
    if c.clip not in ("cispo", "gspo", "sapo"):
        return clipped_surrogate(
            log_probs,
            part.old_log_probs,
            advantages,
            clip=c.clip,
            epsilon_low=c.clip_low,
            epsilon_high=c.clip_high,
            ceiling=c.clip_ceiling,
        )

    replayed = log_probs if part.old_log_probs is None else part.old_log_probs
    old_log_probs = jax.lax.stop_gradient(replayed)
    if c.clip == "cispo":
        return cispo(log_probs, old_log_probs, advantages, cap=c.cispo_cap)
    if c.clip == "gspo":
        return gspo(
            log_probs,
            old_log_probs,
            advantages,
            part.mask,
            epsilon_low=c.gspo_clip_low[task],
            epsilon_high=c.gspo_clip_high[task],
        )
    return sapo(
        log_probs,
        old_log_probs,
        advantages,
        tau_positive=c.sapo_tau_positive,
        tau_negative=c.sapo_tau_negative,
    )


def token_advantages(part: PolicyBatch) -> Float[Array, "B G #T"]:
    """The advantage of each token: that of its completion, unless tokens have factors."""
    advantages = part.advantages[..., None]
    return advantages if part.advantage_factors is None else advantages * part.advantage_factors
