"""Attention with explicit masks, and the key/value cache. In: queries, keys, values, a mask; out: mixed values."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from corl_jax.core.types import pytree
from corl_jax.models.eight_bits import Int8
from corl_jax.models.layers import linear, rotate


@pytree()
class Cache:
    """Keys and values, heads first, so that attention reads them as they lie; the mask hides what is not yet written.

    Attributes:
      k, v: ``[Y, N, K, L, C]`` for layers that run as a scan; for layers that run one by one a tuple of ``Y`` arrays
        ``[N, K, L, C]``, each of which a loop over tokens updates in place and reads without a copy. Arrays, or
        ``Int8`` scaled along ``C``.
    """

    k: Any
    v: Any

    @classmethod
    def empty(
        cls, layers: int, rows: int, length: int, kv_heads: int, head_size: int, dtype: Any, stacked: bool = True
    ) -> Cache:
        """A cache of zeros; with ``dtype`` int8 every position of a head has a scale of its own."""

        def zeros(*shape: int) -> Any:
            values = jnp.zeros(shape, dtype)
            return Int8(values, jnp.zeros((*shape[:-1], 1), jnp.float32)) if dtype == jnp.int8 else values

        one = (rows, kv_heads, length, head_size)
        empty = zeros(layers, *one) if stacked else tuple(zeros(*one) for _ in range(layers))
        return cls(empty, empty)

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
        pairs = ((self.k, k_NKLC), (self.v, v_NKLC))
        if isinstance(self.k, tuple):
            k, v = (_put(old[layer], new, (0, 0, index, 0)) for old, new in pairs)
            after = slice(layer + 1, None)
            cache = Cache((*self.k[:layer], k, *self.k[after]), (*self.v[:layer], v, *self.v[after]))
            return _read(k, k_NKLC.dtype), _read(v, v_NKLC.dtype), cache
        k, v = (_put(old, new[None], (layer, 0, 0, index, 0)) for old, new in pairs)
        here = (jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, layer, keepdims=False), x) for x in (k, v))
        k_here, v_here = (_read(x, new.dtype) for x, (_, new) in zip(here, pairs, strict=True))
        return k_here, v_here, Cache(k, v)


def _put(old: Any, new: jax.Array, at: tuple[Any, ...]) -> Any:
    """``old`` with ``new`` at the indices ``at``, in the form that ``old`` has."""
    form = Int8.of(new, -1) if isinstance(old, Int8) else new.astype(old.dtype)
    return jax.tree.map(lambda to, part: jax.lax.dynamic_update_slice(to, part, at), old, form)


def _read(x: Any, dtype: Any) -> jax.Array:
    return x.to(dtype) if isinstance(x, Int8) else x


def attend(
    q_NLHC: Float[Array, "N L H C"],
    k_NKSC: Float[Array, "N K S C"],
    v_NKSC: Float[Array, "N K S C"],
    mask_NLS: Bool[Array, "#N L S"] | None,
) -> Float[Array, "N L H C"]:
    """Softmax attention in float32, scale ``C**-0.5``; query heads share key/value heads in equal groups.

    A query whose mask row is empty attends to everything evenly instead of giving NaN; nobody reads such rows.
    """
    n, length, heads, size = q_NLHC.shape
    kv_heads = k_NKSC.shape[1]
    q = q_NLHC.reshape(n, length, kv_heads, heads // kv_heads, size)
    scores = jnp.einsum("NLKGC,NKSC->NKGLS", q, k_NKSC, preferred_element_type=jnp.float32) * size**-0.5
    if mask_NLS is not None:
        scores = jnp.where(mask_NLS[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v_NKSC.dtype)
    return jnp.einsum("NKGLS,NKSC->NLKGC", weights, v_NKSC).reshape(n, length, heads, size)


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
        k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
        if cache is not None:
            k, v, cache = cache.write(k, v, layer, index)
        mixed = attend(q, k, v, mask_NLS).reshape(n, length, -1)
        return self.o_proj(mixed), cache
