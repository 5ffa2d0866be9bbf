"""Masked reductions and metrics that are divided once, at the end."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from corl_jax.core.types import pytree


@pytree()
class Weighted:
    """A sum and its weight. Adds; ``value`` divides at the end, so micro-batches and hosts mix exactly."""

    sum: Any
    weight: Any

    @classmethod
    def of(cls, values, mask=None) -> Weighted:
        """Sums ``values`` where ``mask`` (same shape, or None for all) is true."""
        values = jnp.asarray(values, jnp.float32)
        mask = jnp.ones_like(values) if mask is None else jnp.asarray(mask, jnp.float32)
        return cls(jnp.sum(values * mask), jnp.sum(mask))

    def __add__(self, other: Weighted) -> Weighted:
        return Weighted(self.sum + other.sum, self.weight + other.weight)

    @property
    def value(self):
        """``sum / weight``, and 0 where nothing was counted."""
        return self.sum / jnp.where(self.weight == 0, 1, self.weight)


Metrics = dict[str, Weighted]


def add_metrics(left: Metrics, right: Metrics) -> Metrics:
    """Adds metrics of the same names, micro-batch to micro-batch."""
    return {name: left[name] + right[name] for name in left}


def masked_mean(values: jax.Array, mask: jax.Array, axis=None) -> jax.Array:
    """Mean of ``values`` where ``mask``; 0 where the mask is empty."""
    mask = mask.astype(values.dtype)
    return jnp.sum(values * mask, axis) / jnp.maximum(jnp.sum(mask, axis), 1)
