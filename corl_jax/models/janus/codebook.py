"""The vector quantiser with unit-norm codes. In: latents ``[..., Z]``; out: nearest codes and their rows.

Compatible with ``VectorQuantizer`` of the original Janus (``codebook_l2_norm=True``): latents and rows are normalised
before the distance, look-ups return normalised rows.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int


def unit(x: Float[Array, "... Z"]) -> Float[Array, "... Z"]:
    """Rows of norm one, as torch's ``F.normalize`` with eps 1e-12; safe to differentiate at zero."""
    square = jnp.sum(x * x, -1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))


class Codebook(nnx.Module):
    """``I`` codes of ``Z`` numbers, learned by gradient."""

    def __init__(self, size: int, code_dim: int, *, rngs: nnx.Rngs):
        rows = jax.random.normal(rngs.params(), (size, code_dim))
        self.embedding = nnx.Param(unit(rows), logical=("codes", "code_size"))

    def similarity(self, z: Float[Array, "... Z"]) -> Float[Array, "... I"]:
        """Cosine of every latent with every code."""
        return unit(z) @ unit(self.embedding[...]).T

    def nearest(self, z: Float[Array, "... Z"]) -> Int[Array, "..."]:
        """Index of the nearest code."""
        return jnp.argmax(self.similarity(z), -1)

    def lookup(self, codes: Int[Array, "..."]) -> Float[Array, "... Z"]:
        """Normalised rows of ``codes``."""
        return unit(self.embedding[...])[codes]
