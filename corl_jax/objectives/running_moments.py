"""Running mean and standard deviation of rewards, from which z-scores are computed.

The moments are saved in checkpoints, so that a resumed run has the same z-scores.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from corl_jax.core.types import pytree

# A standard deviation below this counts as zero.
MIN_STD = 1e-6


@pytree()
class RunningMoments:
    """Moments of ``R`` rewards over all values so far.

    Attributes:
      count: ``[R]``, number of values.
      mean: ``[R]``, their mean.
      squares: ``[R]``, sum of their squared deviations from the mean.
    """

    count: Any
    mean: Any
    squares: Any

    def with_values(self, values: Float[Array, "N R"] | Float[np.ndarray, "N R"]) -> RunningMoments:
        """The moments after ``values`` are added."""
        # NumPy on the host, JAX inside a jitted function.
        xp = np if isinstance(values, np.ndarray) else jnp
        count, mean = values.shape[0], values.mean(0)
        return self.with_sums(count, mean, xp.square(values - mean).sum(0))

    def with_sums(
        self, count: ArrayLike, mean: Float[ArrayLike, " R"], squares: Float[ArrayLike, " R"]
    ) -> RunningMoments:
        """The moments after more values are added, of which only the moments are known.

        Source: Chan, Golub and LeVeque, 1983, the parallel update of means and squares.

        Args:
          count: number of the added values.
          mean: their mean.
          squares: sum of their squared deviations from that mean.
        """
        # The new mean is where the two means divide their distance in proportion to the counts.
        total = self.count + count
        shift = mean - self.mean
        fraction = count / total
        return RunningMoments(
            total,
            self.mean + shift * fraction,
            self.squares + squares + shift**2 * self.count * fraction,
        )

    def z_scores(self, values: Float[np.ndarray, "N R"]) -> Float[np.ndarray, "N R"]:
        """``(value - mean) / std``, with ddof 0; 0 for a reward whose values were all equal."""
        # Before the first value the count is 0, and so is the standard deviation.
        std = np.sqrt(np.asarray(self.squares) / np.maximum(np.asarray(self.count), 1))
        return np.where(
            std > MIN_STD, (values - np.asarray(self.mean)) / np.maximum(std, MIN_STD), 0
        )


def empty_moments(num_rewards: int) -> RunningMoments:
    """Moments of ``num_rewards`` rewards before the first value."""
    return RunningMoments(jnp.zeros(num_rewards), jnp.zeros(num_rewards), jnp.zeros(num_rewards))
