"""Self-attention with explicit masks, and the key/value cache. In: states, positions, a mask; out: mixed states."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from corl_jax.core.types import pytree
from corl_jax.models.kernels import attend, kernels
from corl_jax.models.layers import linear, rotate


@pytree()
class Cache:
    """Keys and values, heads first, so that attention reads them as they lie; the mask hides what is not yet written.

    Attributes:
      k, v: ``[Y, N, K, L, C]`` for layers that run as a scan; for layers that run one by one a tuple of ``Y`` arrays
        ``[N, K, L, C]``, each of which a loop over tokens updates in place and reads without a copy.
    """

    k: Any
    v: Any

    @classmethod
    def empty(
        cls, layers: int, rows: int, length: int, kv_heads: int, head_size: int, dtype: Any, stacked: bool = True
    ) -> Cache:
        """A cache of zeros."""
        one = (rows, kv_heads, length, head_size)
        zeros = jnp.zeros((layers, *one), dtype) if stacked else tuple(jnp.zeros(one, dtype) for _ in range(layers))
        return cls(zeros, zeros)

    @property
    def length(self) -> int:
        """``L``, positions it has room for."""
        return jax.tree.leaves(self.k)[0].shape[-2]

    def tile(self, times: int) -> Cache:
        """Every row ``times`` times in a row: a prompt prefilled once serves its whole group."""
        return jax.tree.map(lambda leaf: jnp.repeat(leaf, times, leaf.ndim - 4), self)

    def grow(self, length: int) -> Cache:
        """Room for ``length`` positions, of which the new ones are zeros."""
        return jax.tree.map(
            lambda leaf: jnp.pad(leaf, [(0, 0)] * (leaf.ndim - 2) + [(0, length - self.length), (0, 0)]), self
        )

    def write(self, k_NKLC: Any, v_NKLC: Any, layer: Any, index: Any) -> tuple[jax.Array, jax.Array, Cache]:
        """Puts keys and values of ``layer`` at position ``index``; returns that layer's ``[N, K, L, C]``, and all."""
        if isinstance(self.k, tuple):
            k, v = (
                jax.lax.dynamic_update_slice(old[layer], new.astype(old[layer].dtype), (0, 0, index, 0))
                for old, new in ((self.k, k_NKLC), (self.v, v_NKLC))
            )
            after = slice(layer + 1, None)
            return k, v, Cache((*self.k[:layer], k, *self.k[after]), (*self.v[:layer], v, *self.v[after]))
        at = (layer, 0, 0, index, 0)
        k = jax.lax.dynamic_update_slice(self.k, k_NKLC[None].astype(self.k.dtype), at)
        v = jax.lax.dynamic_update_slice(self.v, v_NKLC[None].astype(self.v.dtype), at)
        here = (jax.lax.dynamic_index_in_dim(all_, layer, keepdims=False) for all_ in (k, v))
        return *here, Cache(k, v)


class SelfAttention(nnx.Module):
    """Rotary grouped-query self-attention without biases (Llama); ``kernel`` is a name in ``models.kernels``."""

    def __init__(
        self, width: int, heads: int, kv_heads: int, head_size: int, *, kernel: str, dtype: Any, rngs: nnx.Rngs
    ):
        self.heads, self.kv_heads, self.head_size, self.kernel = heads, kv_heads, head_size, kernel
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
        k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
        if cache is not None:
            k, v, cache = cache.write(k, v, layer, index)
        mix = attend if length == 1 else kernels[self.kernel].attend
        return self.o_proj(mix(q, k, v, mask_NLS).reshape(n, length, -1)), cache
