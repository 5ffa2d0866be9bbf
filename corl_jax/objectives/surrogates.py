"""Surrogates whose bound is not PPO's clip of a token's ratio: CISPO, GSPO and SAPO.

In: log-probs and advantages per token. Out, as of ``policy_gradient.clipped_surrogate``: the loss,
the ratio, and 1.0 where the bound is active, each per token. At ratio 1 all have the gradient of
the unclipped surrogate, ``-A grad log pi``; their values differ.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from corl_jax.objectives.log_ratios import probability_ratio

Surrogate = tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]]
"""Loss, ratio, and 1.0 where the bound is active, per token."""


def cispo(
    log_probs: Float[Array, "..."],
    old_log_probs: Float[Array, "..."],
    advantages: Float[Array, "..."],
    *,
    cap: float,
) -> Surrogate:
    """``-sg(min(rho, cap)) A log pi`` per token (CISPO, arXiv 2506.13585).

    A token beyond the bound keeps a gradient, with the weight ``cap``; PPO's has none.

    Args:
      log_probs: ``log pi`` of the policy in training.
      old_log_probs: ``log pi_old`` of the policy that sampled.
      advantages: ``A``.
      cap: the largest ratio itself (``epsilon_high`` of TRL), not the distance from 1.
    """
    ratio = probability_ratio(log_probs - old_log_probs)
    weight = jax.lax.stop_gradient(jnp.minimum(ratio, cap))
    return -weight * advantages * log_probs, ratio, (ratio > cap).astype(jnp.float32)


def gspo(
    log_probs: Float[Array, "... T"],
    old_log_probs: Float[Array, "... T"],
    advantages: Float[Array, "..."],
    mask: Bool[Array, "... T"],
    *,
    epsilon_low: float,
    epsilon_high: float,
) -> Surrogate:
    """``-min(s A, clip(s, 1 - epsilon_low, 1 + epsilon_high) A)`` per token (GSPO, arXiv 2507.18071).

    ``s = exp(mean_t log rho_t)`` is one ratio for all tokens of a completion. This is the paper's token
    form, with ``sg(s) pi / sg(pi)`` for ``s``: where the tokens of a completion have one weight its
    value and its gradient are those of the sequence form, and other weights of tokens keep
    their meaning.

    Args:
      log_probs: ``log pi`` of the policy in training.
      old_log_probs: ``log pi_old`` of the policy that sampled.
      advantages: ``A``, broadcast against the tokens.
      mask: the completion mask, over whose tokens the mean goes.
      epsilon_low, epsilon_high: width of the trust region. A mean over tokens moves far less than
        the ratio of a token, so they are 3e-4 and 4e-4 in the paper.
    """
    # Masked tokens may have any log-prob, so they must not enter the sum at all.
    log_ratio = jnp.where(mask, jax.lax.stop_gradient(log_probs) - old_log_probs, 0)
    lengths = jnp.maximum(jnp.sum(mask, -1, keepdims=True), 1)
    sequence_ratio = probability_ratio(jnp.sum(log_ratio, -1, keepdims=True) / lengths)
    ratio = sequence_ratio * jnp.exp(log_probs - jax.lax.stop_gradient(log_probs))

    unclipped = ratio * advantages
    clipped = jnp.clip(ratio, 1 - epsilon_low, 1 + epsilon_high) * advantages
    objective = jnp.minimum(unclipped, clipped)
    return -objective, ratio, (objective != unclipped).astype(jnp.float32)


def sapo(
    log_probs: Float[Array, "..."],
    old_log_probs: Float[Array, "..."],
    advantages: Float[Array, "..."],
    *,
    tau_positive: float,
    tau_negative: float,
) -> Surrogate:
    """``-(4 / tau) sigmoid(tau (rho - 1)) A`` per token (SAPO, arXiv 2511.20347).

    A soft gate in place of a clip: the weight of a token falls smoothly as its ratio leaves 1.

    Args:
      log_probs: ``log pi`` of the policy in training.
      old_log_probs: ``log pi_old`` of the policy that sampled.
      advantages: ``A``.
      tau_positive, tau_negative: how narrow the gate is where the advantage is above 0, and where
        it is not.
    """
    ratio = probability_ratio(log_probs - old_log_probs)
    tau = jnp.where(advantages > 0, tau_positive, tau_negative)
    gate = jax.nn.sigmoid(tau * (ratio - 1)) * 4 / tau
    return -gate * advantages, ratio, jnp.zeros_like(ratio)
