"""The vector quantizer: latents ``[..., Z]`` to the nearest codes, and codes to their vectors.

Compatible with ``VectorQuantizer`` of the original Janus (``codebook_l2_norm=True``): latents and
codes are L2-normalized before the distance, and a lookup returns normalized vectors.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int


def l2_normalize(x: Float[Array, "... Z"]) -> Float[Array, "... Z"]:
    """Vectors of norm one, as torch's ``F.normalize`` with eps 1e-12."""
    # Clipping the square instead of the norm keeps the gradient at zero finite.
    square = jnp.sum(x * x, -1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))


class Codebook(nnx.Module):
    """``I`` codes with a vector of ``Z`` numbers each, learned by gradient."""

    def __init__(self, size: int, code_dim: int, *, rngs: nnx.Rngs):
        vectors_IZ = jax.random.normal(rngs.params(), (size, code_dim))
        self.embedding = nnx.Param(l2_normalize(vectors_IZ), logical=("codes", "code_size"))

    def similarity(self, z: Float[Array, "... Z"]) -> Float[Array, "... I"]:
        """Cosine of every latent with every code."""
        # Training moves the vectors off the unit sphere, so they are normalized at every use.
        return l2_normalize(z) @ l2_normalize(self.embedding[...]).T

    def nearest(self, z: Float[Array, "... Z"]) -> Int[Array, "..."]:
        """Index of the nearest code."""
        # Of unit vectors the one with the largest cosine has the smallest distance.
        return jnp.argmax(self.similarity(z), -1)

    def lookup(self, codes: Int[Array, "..."]) -> Float[Array, "... Z"]:
        """Normalized vectors of ``codes``."""
        return l2_normalize(self.embedding[...])[codes]
