"""Rewards that are normalized one by one and then added: GDPO (arXiv 2601.05242).

A sum of rewards lets the one with the largest spread decide. Here each reward has the same spread
within its group before it is weighted.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

# Small beside the spread of cosines, which the 1e-4 of ``normalize_by_group_std`` is not.
EPSILON = 1e-6

# Sums below it, relative to their terms, are rounding errors.
SMALLEST_SUM = 1e-5


def normalized_sum(
    parts: Float[Array, "B G R"], weights: Float[np.ndarray, " R"]
) -> Float[Array, "B G"]:
    """``sum_k w_k (r_k - mean(r_k)) / (std(r_k) + 1e-6)`` within each group.

    The standard deviation has ddof 1, as in verl. A reward that is equal throughout a group adds 0.
    """
    centred = parts - jnp.mean(parts, 1, keepdims=True)
    scores = centred / (jnp.std(parts, 1, ddof=1, keepdims=True) + EPSILON)
    # The mean of equal numbers may differ from them by a rounding error.
    scores = jnp.where(jnp.ptp(parts, 1, keepdims=True) == 0, 0.0, scores)
    total = jnp.sum(scores * jnp.asarray(weights, parts.dtype), -1)

    # Parts may cancel; what rounding leaves of them would be magnified by ``whiten``.
    return jnp.where(jnp.abs(total) > SMALLEST_SUM * np.abs(weights).sum(), total, 0.0)


def whiten(advantages: Float[Array, "B G"]) -> Float[Array, "B G"]:
    """Advantages of mean 0 and, over the whole step, standard deviation 1 (ddof 1)."""
    centred = advantages - jnp.mean(advantages)
    return centred / (jnp.std(advantages, ddof=1) + EPSILON)


def equal_parts(parts: Float[np.ndarray, "B G R"]) -> Bool[np.ndarray, "B"]:
    """Groups in which every reward by itself is equal for all samples."""
    return np.all(np.ptp(parts, 1) == 0, -1)
