"""Weights of groups by how difficult their prompts are for the policy of today.

VL-Cogito (arXiv 2507.22607), as its authors' code has it: a weight per group, from the share of its
samples that succeeded, which multiplies the advantages of the group.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from corl_jax.core.registry import Registry

Successes = Float[np.ndarray, "B"]

# Functions from shares of success to weights of groups.
difficulty_weights: Registry[Callable[[Successes], Successes]] = Registry("difficulty weight")


@difficulty_weights.register("none")
def equal(success: Successes) -> Successes:
    """Every group counts the same."""
    return np.ones_like(success)


@difficulty_weights.register("easy")
def prefer_easy(success: Successes) -> Successes:
    """1 above one half, ``sin(pi a)`` below, 0 without success."""
    return np.where(success > 0.5, 1.0, prefer_medium(success))


@difficulty_weights.register("medium")
def prefer_medium(success: Successes) -> Successes:
    """``sin(pi a)``: 1 at one half, 0 where all samples or none succeeded."""
    # The sine of pi is not exactly 0 in floating point.
    is_mixed = (success > 0) & (success < 1)
    return np.where(is_mixed, np.sin(np.pi * success), 0.0)


@difficulty_weights.register("hard")
def prefer_hard(success: Successes) -> Successes:
    """1 up to one half, ``sin(pi a)`` above, a quarter without success."""
    weights = np.where(success > 0.5, prefer_medium(success), 1.0)
    return np.where(success == 0, 0.25, weights)
