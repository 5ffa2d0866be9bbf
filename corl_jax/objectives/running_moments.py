"""Mean and spread of rewards over a run, for z-scores. In: sums of values and of squares; out: moments, z-scores."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from corl_jax.core.types import pytree

FLAT = 1e-6
"""A standard deviation below which values count as all the same."""


@pytree()
class RunningMoments:
    """Of ``R`` rewards: how many values were seen, their means and their sums of squared deviations, ``[R]`` each."""

    count: Any
    mean: Any
    squares: Any

    def with_values(self, values: Any) -> RunningMoments:
        """These and ``values [N, R]`` together (Chan, Golub and LeVeque, 1983)."""
        library = np if isinstance(values, np.ndarray) else jnp
        number, mean = values.shape[0], values.mean(0)
        return self.with_sums(number, mean, library.square(values - mean).sum(0))

    def with_sums(self, count: Any, mean: Any, squares: Any) -> RunningMoments:
        """These and ``count`` values of that mean and sum of squared deviations."""
        total, apart = self.count + count, mean - self.mean
        share = count / total
        return RunningMoments(
            total, self.mean + apart * share, self.squares + squares + apart**2 * self.count * share
        )

    def z_scores(self, values: Float[np.ndarray, "N R"]) -> Float[np.ndarray, "N R"]:
        """``(value - mean) / standard deviation``; 0 for a reward that never differed."""
        deviation = np.sqrt(np.asarray(self.squares) / np.maximum(np.asarray(self.count), 1))
        return np.where(
            deviation > FLAT, (values - np.asarray(self.mean)) / np.maximum(deviation, FLAT), 0
        )


def empty_moments(rewards: int) -> RunningMoments:
    """Of ``rewards`` rewards, before the first step."""
    return RunningMoments(jnp.zeros(rewards), jnp.zeros(rewards), jnp.zeros(rewards))
