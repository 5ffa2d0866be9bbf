"""Attention with explicit masks, and the key/value cache. In: queries, keys, values, a mask; out: mixed values."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from corl_jax.core.types import pytree
from corl_jax.models.layers import linear, rotate


@pytree()
class Cache:
    """Keys and values of all layers, ``[Y, N, L, K, C]``; positions not yet written are hidden by the mask."""

    k: Any
    v: Any

    @classmethod
    def empty(cls, layers: int, rows: int, length: int, kv_heads: int, head_size: int, dtype: Any) -> Cache:
        """A cache of zeros."""
        zeros = jnp.zeros((layers, rows, length, kv_heads, head_size), dtype)
        return cls(zeros, zeros)

    def tile(self, times: int) -> Cache:
        """Every row ``times`` times in a row: a prompt prefilled once serves its whole group."""
        return Cache(jnp.repeat(self.k, times, 1), jnp.repeat(self.v, times, 1))


def attend(
    q_NLHC: Float[Array, "N L H C"],
    k_NSKC: Float[Array, "N S K C"],
    v_NSKC: Float[Array, "N S K C"],
    mask_NLS: Bool[Array, "#N L S"] | None,
) -> Float[Array, "N L H C"]:
    """Softmax attention in float32, scale ``C**-0.5``; query heads share key/value heads in equal groups.

    A query whose mask row is empty attends to everything evenly instead of giving NaN; nobody reads such rows.
    """
    n, length, heads, size = q_NLHC.shape
    kv_heads = k_NSKC.shape[2]
    q = q_NLHC.reshape(n, length, kv_heads, heads // kv_heads, size)
    scores = jnp.einsum("NLKGC,NSKC->NKGLS", q, k_NSKC, preferred_element_type=jnp.float32) * size**-0.5
    if mask_NLS is not None:
        scores = jnp.where(mask_NLS[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v_NSKC.dtype)
    return jnp.einsum("NKGLS,NSKC->NLKGC", weights, v_NSKC).reshape(n, length, heads, size)


class SelfAttention(nnx.Module):
    """Rotary grouped-query self-attention without biases (Llama)."""

    def __init__(self, width: int, heads: int, kv_heads: int, head_size: int, *, dtype: Any, rngs: nnx.Rngs):
        self.heads, self.kv_heads, self.head_size = heads, kv_heads, head_size
        self.q_proj = linear(width, heads * head_size, ("embed", "heads"), bias=False, dtype=dtype, rngs=rngs)
        self.k_proj = linear(width, kv_heads * head_size, ("embed", "kv_heads"), bias=False, dtype=dtype, rngs=rngs)
        self.v_proj = linear(width, kv_heads * head_size, ("embed", "kv_heads"), bias=False, dtype=dtype, rngs=rngs)
        self.o_proj = linear(heads * head_size, width, ("heads", "embed"), bias=False, dtype=dtype, rngs=rngs)

    def __call__(self, x_NLD, rope, mask_NLS, cache: Cache | None, layer, index) -> tuple[jax.Array, Cache | None]:
        """Mixes ``x``; with a cache, writes its keys and values at ``index`` and attends to all of it.

        Args:
          x_NLD: ``[N, L, D]``.
          rope: cosine and sine from ``layers.rotary``.
          mask_NLS: bool ``[N, L, S]``, true where a query may look; ``S`` is the cache's length, or ``L`` without one.
          cache: all layers' cache, or None.
          layer: number of this layer in the cache.
          index: first position to write.
        """
        n, length, _ = x_NLD.shape
        q = rotate(self.q_proj(x_NLD).reshape(n, length, self.heads, self.head_size), *rope)
        k = rotate(self.k_proj(x_NLD).reshape(n, length, self.kv_heads, self.head_size), *rope)
        v = self.v_proj(x_NLD).reshape(n, length, self.kv_heads, self.head_size)
        if cache is not None:
            at = (layer, 0, index, 0, 0)
            cache = Cache(
                jax.lax.dynamic_update_slice(cache.k, k[None].astype(cache.k.dtype), at),
                jax.lax.dynamic_update_slice(cache.v, v[None].astype(cache.v.dtype), at),
            )
            k = jax.lax.dynamic_index_in_dim(cache.k, layer, keepdims=False)
            v = jax.lax.dynamic_index_in_dim(cache.v, layer, keepdims=False)
        mixed = attend(q, k, v, mask_NLS).reshape(n, length, -1)
        return self.o_proj(mixed), cache
