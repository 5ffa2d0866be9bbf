"""Probability ratios from differences of log-probs, kept finite."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

MAX_LOG_RATIO = 20.0
"""Largest log-ratio that is exponentiated, as in verl (``core_algos.py`` clamps to -20 .. 20 in the
surrogate and in ``low_var_kl``). In float32 ``exp`` is infinite from 88.73 on, and the gradient of
an infinite term is NaN even where a minimum does not choose it."""


def bounded_log_ratio(log_ratio: Float[Array, "..."]) -> Float[Array, "..."]:
    """``min(log_ratio, MAX_LOG_RATIO)``: smaller ones keep their bits, larger have gradient 0.

    There is no lower bound. ``exp`` goes to 0 there, and a term that is linear in the log-ratio
    must keep its gradient.
    """
    return jnp.minimum(log_ratio, MAX_LOG_RATIO)


def probability_ratio(log_ratio: Float[Array, "..."]) -> Float[Array, "..."]:
    """``exp(log_ratio)``, at most ``exp(MAX_LOG_RATIO)``."""
    return jnp.exp(bounded_log_ratio(log_ratio))
