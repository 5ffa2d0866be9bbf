"""The surrogate of samples that the policy did not draw (RL-PLUS, arXiv 2508.00222).

In: log-probs of their tokens under the policy, and advantages. Out: a loss per token. Nobody knows
the probabilities of whoever made such a sample, so that the ratio is to a mixture instead.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def external_surrogate(
    log_probs: Float[Array, "..."],
    old_log_probs: Float[Array, "..."] | None,
    advantages: Float[Array, "..."],
    exponent: float,
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """``-w A (1 - pi)**exponent`` per token, with ``w = 2 pi / (pi_old + omega)``.

    ``omega = (pi_old + 1) / 2`` stands for the unknown author: the mean of the policy that sampled
    and of a law that is sure of the token (the authors' code; a uniform law in the paper). At a rare
    token ``w`` is about ``4 pi``, so it is damped strongly. The last factor is detached: what the
    policy would write anyway has little of the advantage.

    Args:
      log_probs: ``log pi`` of the policy in training.
      old_log_probs: of the policy before the step; None where ``log_probs`` are the same.
      advantages: ``A``, broadcast against the tokens.
      exponent: 0.5 in the authors' code.

    Returns:
      the loss, and ``w``.
    """
    old = jax.lax.stop_gradient(log_probs if old_log_probs is None else old_log_probs)
    probs, old_probs = jnp.exp(log_probs), jnp.exp(old)
    omega = (old_probs + 1) / 2
    weights = 2 * probs / (old_probs + omega)

    # Rounding may take a probability above 1.
    doubt = jax.lax.stop_gradient(jnp.maximum(1 - probs, 0)) ** exponent
    return -weights * doubt * advantages, weights
