"""Metrics that are divided only once, at the end."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike

from corl_jax.core.types import pytree


@pytree()
class Weighted:
    """A weighted sum together with its weight; ``value`` is their quotient.

    Two of them add up, and the division comes last. The mean over micro-batches, updates and hosts
    of different size is therefore exact, which a mean of means would not be.

    Attributes:
      sum: sum of the values, float32.
      weight: number of values, or the sum of their weights, float32.
    """

    sum: Any
    weight: Any

    @classmethod
    def of(cls, values: ArrayLike, mask: ArrayLike | None = None) -> Weighted:
        """Sums ``values`` where ``mask`` (same shape, or None for everywhere) is true."""
        values = jnp.asarray(values, jnp.float32)
        mask = jnp.ones_like(values) if mask is None else jnp.asarray(mask, jnp.float32)
        return cls(jnp.sum(values * mask), jnp.sum(mask))

    def __add__(self, other: Weighted) -> Weighted:
        return Weighted(self.sum + other.sum, self.weight + other.weight)

    @property
    def value(self) -> Any:
        """``sum / weight``, and 0 where the weight is 0."""
        # Without the guard an empty mask would give NaN.
        return self.sum / jnp.where(self.weight == 0, 1, self.weight)


Metrics = dict[str, Weighted]
