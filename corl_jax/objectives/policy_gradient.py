"""The clipped surrogate of GRPO and what a sampler that differs costs, per token. In: log-probs and advantages; out: a
loss per token, to be weighted."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from corl_jax.core.errors import UserError

CLIPS = ("ppo", "two_sided", "none")


def clipped_surrogate(
    log_probs: Float[Array, "..."],
    old_log_probs: Float[Array, "..."] | None,
    advantages: Float[Array, "..."],
    *,
    clip: str,
    epsilon_low: float,
    epsilon_high: float,
    ceiling: float = 3.0,
) -> tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]]:
    """``-min(rho A, clip(rho, 1 - low, 1 + high) A)`` per token (OThink-MR1 Eq. 4; CoRL has no clip).

    Args:
      log_probs: of the policy in training.
      old_log_probs: of the policy that sampled, or None with one update per rollout: then the ratio is 1 and its
        gradient is that of ``log_probs``.
      advantages: broadcast against the tokens.
      clip: ``ppo``; ``two_sided``, which also bounds the ratio where the advantage is negative, at ``ceiling``, so that
        no token loses more than ``-ceiling A`` (dual clip, Ye et al., 2020; ``delta`` of TRL, ``clip_ratio_c`` of
        verl); or ``none``.
      epsilon_low, epsilon_high: width of the trust region; DAPO's clip-higher is a wider ``epsilon_high``.
      ceiling: of ``two_sided``, more than ``1 + epsilon_high``.

    Returns:
      loss, ratio, and 1.0 where the clip is active, each per token.
    """
    if clip not in CLIPS:
        raise UserError(f"unknown clip {clip!r}; expected one of {', '.join(CLIPS)}")
    anchor = jax.lax.stop_gradient(log_probs if old_log_probs is None else old_log_probs)
    ratio = jnp.exp(log_probs - anchor)
    gain = ratio * advantages
    if clip == "none":
        return -gain, ratio, jnp.zeros_like(ratio)
    kept = jnp.minimum(gain, jnp.clip(ratio, 1 - epsilon_low, 1 + epsilon_high) * advantages)
    if clip == "two_sided":
        kept = jnp.where(advantages < 0, jnp.maximum(kept, ceiling * advantages), kept)
    return -kept, ratio, (kept != gain).astype(jnp.float32)


def importance_weights(
    log_probs: Float[Array, "..."], sampler_log_probs: Float[Array, "..."], cap: float
) -> Float[Array, "..."]:
    """``min(pi / mu, cap)`` per token: how much more likely a token is under the policy than under its sampler.

    Makes up for a sampler that is one update behind or rounds differently; truncated, since a few tokens would outweigh
    all others (Ionides, 2008; Yao et al., 2025, on rollouts in another engine). No gradient flows through it.

    Args:
      log_probs: of the policy that the surrogate's ratio is taken against.
      sampler_log_probs: of the distribution that was sampled from.
      cap: the largest weight, 1 or more.
    """
    return jax.lax.stop_gradient(jnp.minimum(jnp.exp(log_probs - sampler_log_probs), cap))
