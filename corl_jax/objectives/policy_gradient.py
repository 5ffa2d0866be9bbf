"""The clipped surrogate loss of GRPO, and importance weights for a sampler unlike the policy.

In: log-probs and advantages per token. Out: a loss per token, which ``token_weights`` then weights
and sums.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from corl_jax.core.errors import UserError
from corl_jax.objectives.log_ratios import probability_ratio

# See ``clipped_surrogate``.
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
    """``-min(rho A, clip(rho, 1 - epsilon_low, 1 + epsilon_high) A)`` per token.

    ``rho = pi / pi_old`` is the probability ratio, bounded as in ``log_ratios``, and ``A`` the
    advantage (OThink-MR1 Eq. 4; CoRL has no clip).

    Args:
      log_probs: ``log pi`` of the policy in training.
      old_log_probs: ``log pi_old`` of the policy that sampled. None with one update per rollout:
        the ratio is then 1, and its gradient is that of ``log_probs``.
      advantages: ``A``, broadcast against the tokens.
      clip: one of ``CLIPS``.

        * ``ppo``: the formula above.
        * ``two_sided``: it also bounds the ratio at ``ceiling`` where the advantage is negative, so
          that no token has a loss above ``-ceiling * A`` (dual clip, Ye et al., 2020; ``delta`` of
          TRL, ``clip_ratio_c`` of verl).
        * ``none``: ``-rho A``.
      epsilon_low, epsilon_high: width of the trust region; DAPO's clip-higher is a larger
        ``epsilon_high``.
      ceiling: for ``two_sided``, larger than ``1 + epsilon_high``.

    Returns:
      the loss, the ratio, and 1.0 where the clip is active, each per token.
    """
    if clip not in CLIPS:
        raise UserError(f"unknown clip {clip!r}; expected one of {', '.join(CLIPS)}")

    # Without old log-probs the ratio is exp(0) = 1, with the policy gradient as its derivative.
    anchor = jax.lax.stop_gradient(log_probs if old_log_probs is None else old_log_probs)
    ratio = probability_ratio(log_probs - anchor)
    unclipped = ratio * advantages
    if clip == "none":
        return -unclipped, ratio, jnp.zeros_like(ratio)

    # The minimum is a pessimistic bound: clipping never makes the objective larger.
    objective = jnp.minimum(
        unclipped, jnp.clip(ratio, 1 - epsilon_low, 1 + epsilon_high) * advantages
    )
    if clip == "two_sided":
        # The minimum has no bound where A < 0 and the ratio is large; the ceiling is one.
        objective = jnp.where(
            advantages < 0, jnp.maximum(objective, ceiling * advantages), objective
        )
    return -objective, ratio, (objective != unclipped).astype(jnp.float32)


def importance_weights(
    log_probs: Float[Array, "..."], sampler_log_probs: Float[Array, "..."], cap: float
) -> Float[Array, "..."]:
    """``min(pi / mu, cap)`` per token: the policy's probability over that of the sampler ``mu``.

    The weights correct for a sampler that is one update behind, or that rounds differently. They
    are truncated, since a few tokens would otherwise outweigh all others (Ionides, 2008; Yao et
    al., 2025, on rollouts in another engine). No gradient flows through them.

    Args:
      log_probs: ``log pi`` of the policy that is the denominator of the surrogate's ratio.
      sampler_log_probs: ``log mu`` of the distribution from which the tokens were sampled.
      cap: the largest weight, 1 or more.
    """
    weights = jnp.minimum(probability_ratio(log_probs - sampler_log_probs), cap)
    return jax.lax.stop_gradient(weights)
