"""Attention with explicit masks, and the key/value cache. In: queries, keys, values, a mask; out: mixed values.

What all samples of a prompt have in common is kept once: a cache may have a ``shared`` one before it, with a row per
prompt instead of a row per sample.
"""

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
      shared: positions before these, which ``N / B`` rows side by side have in common, as a cache of ``B`` rows.
    """

    k: Any
    v: Any
    shared: Cache | None = None

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

    def branch(self, times: int) -> Cache:
        """``times`` rows behind every row of this one, which they share; they have no room of their own yet."""
        none = jax.tree.map(lambda leaf: jnp.repeat(leaf[..., :0, :], times, leaf.ndim - 4), self)
        return Cache(none.k, none.v, self)

    def grow(self, length: int) -> Cache:
        """Room for ``length`` positions of its own, of which the new ones are zeros."""

        def pad(leaf: jax.Array) -> jax.Array:
            return jnp.pad(leaf, [(0, 0)] * (leaf.ndim - 2) + [(0, length - self.length), (0, 0)])

        k, v = jax.tree.map(pad, (self.k, self.v))
        return Cache(k, v, self.shared)

    def layer(self, layer: Any, reads: int, dtype: Any) -> tuple[jax.Array, jax.Array]:
        """Keys and values ``[N, K, reads, C]`` of one layer, its first positions."""
        k, v = (_slice(x, layer, reads) for x in (self.k, self.v))
        return _as(k, dtype), _as(v, dtype)

    def write(self, k_NKLC: Any, v_NKLC: Any, layer: Any, index: Any) -> Cache:
        """Puts keys and values of ``layer`` at its own position ``index``."""
        pairs = ((self.k, k_NKLC), (self.v, v_NKLC))
        if isinstance(self.k, tuple):
            k, v = (_put(old[layer], new, (0, 0, index, 0)) for old, new in pairs)
            after = slice(layer + 1, None)
            return Cache((*self.k[:layer], k, *self.k[after]), (*self.v[:layer], v, *self.v[after]), self.shared)
        k, v = (_put(old, new[None], (layer, 0, 0, index, 0)) for old, new in pairs)
        return Cache(k, v, self.shared)


def _slice(x: Any, layer: Any, reads: int) -> Any:
    if isinstance(x, tuple):
        return jax.tree.map(lambda leaf: leaf[:, :, :reads], x[layer])

    def one(leaf: jax.Array) -> jax.Array:  # all axes at once, which a TPU reads without a copy
        sizes = (1, *leaf.shape[1:3], reads, leaf.shape[4])
        return jax.lax.dynamic_slice(leaf, (layer, 0, 0, 0, 0), sizes)[0]

    return jax.tree.map(one, x)


def _put(old: Any, new: jax.Array, at: tuple[Any, ...]) -> Any:
    """``old`` with ``new`` at the indices ``at``, in the form that ``old`` has."""
    form = Int8.of(new, -1) if isinstance(old, Int8) else new.astype(old.dtype)
    return jax.tree.map(lambda to, part: jax.lax.dynamic_update_slice(to, part, at), old, form)


def _as(x: Any, dtype: Any) -> jax.Array:
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


def attend_behind(
    q_NLHC: Float[Array, "N L H C"],
    before: tuple[Float[Array, "B K P C"], Float[Array, "B K P C"]],
    own: tuple[Float[Array, "N K S C"], Float[Array, "N K S C"]],
    mask_NLS: Bool[Array, "#N L PS"],
) -> Float[Array, "N L H C"]:
    """``attend`` to keys and values that ``N / B`` rows share, and to those of each row; the mask covers both in turn.

    The shared ones are read once for all rows that look at them; the softmax over both is put together from the sums of
    each (Milakov and Gimelshein, 2018, section 3.1).
    """
    n, length, heads, size = q_NLHC.shape
    (shared_k, shared_v), (k, v) = before, own
    rows, kv_heads, prefix, _ = shared_k.shape
    group, low = (heads // kv_heads, length), jnp.finfo(jnp.float32).min
    q = q_NLHC.reshape(rows, n // rows, length, kv_heads, heads // kv_heads, size) * jnp.asarray(size**-0.5, v.dtype)
    q_BJKGLC = jnp.moveaxis(q, 2, 4)
    mask = jnp.broadcast_to(mask_NLS, (n, *mask_NLS.shape[1:])).reshape(rows, n // rows, 1, 1, length, -1)

    def scores(q, k, shape):
        q = q.reshape(len(k), kv_heads, -1, size)
        return jnp.einsum("NKMC,NKSC->NKMS", q, k, preferred_element_type=jnp.float32).reshape(*shape, *group, -1)

    def mixture(weights, v, shape):
        weights = weights.astype(v.dtype).reshape(len(v), kv_heads, -1, v.shape[2])
        return jnp.einsum("NKMS,NKSC->NKMC", weights, v).reshape(*shape, *group, size)

    by_prompt, by_row = (rows, kv_heads, n // rows), (rows, n // rows, kv_heads)
    common = jnp.where(mask[..., :prefix].swapaxes(1, 2), scores(q_BJKGLC.swapaxes(1, 2), shared_k, by_prompt), low)
    single = jnp.where(mask[..., prefix:], scores(q_BJKGLC, k, by_row), low)
    top = jnp.maximum(jnp.max(common, -1).swapaxes(1, 2), jnp.max(single, -1))
    common, single = jnp.exp(common - top.swapaxes(1, 2)[..., None]), jnp.exp(single - top[..., None])
    total = jnp.sum(common, -1).swapaxes(1, 2) + jnp.sum(single, -1)
    mixed = mixture(common, shared_v, by_prompt).swapaxes(1, 2) + mixture(single, v, by_row)
    return jnp.moveaxis(mixed / total[..., None].astype(v.dtype), 4, 2).reshape(n, length, heads, size)


class SelfAttention(nnx.Module):
    """Rotary grouped-query self-attention without biases (Llama)."""

    def __init__(self, width: int, heads: int, kv_heads: int, head_size: int, *, dtype: Any, rngs: nnx.Rngs):
        self.heads, self.kv_heads, self.head_size = heads, kv_heads, head_size
        self.q_proj = linear(width, heads * head_size, ("embed", "heads"), bias=False, dtype=dtype, rngs=rngs)
        self.k_proj = linear(width, kv_heads * head_size, ("embed", "kv_heads"), bias=False, dtype=dtype, rngs=rngs)
        self.v_proj = linear(width, kv_heads * head_size, ("embed", "kv_heads"), bias=False, dtype=dtype, rngs=rngs)
        self.o_proj = linear(heads * head_size, width, ("heads", "embed"), bias=False, dtype=dtype, rngs=rngs)

    def __call__(self, x_NLD, rope, mask_NLS, cache: Cache | None, layer, index) -> tuple[jax.Array, Cache | None]:
        """Mixes ``x``; with a cache, writes its keys and values at ``index`` and attends to what the mask covers of it.

        Args:
          x_NLD: ``[N, L, D]``.
          rope: cosine and sine from ``layers.rotary``.
          mask_NLS: bool ``[N, L, S]``, true where a query may look; ``S`` is ``L``, or with a cache how many positions
            are read, first those of its shared part and then its own.
          cache: all layers' cache, or None.
          layer: number of this layer in the cache.
          index: first position to write, counted within the cache's own part.
        """
        n, length, _ = x_NLD.shape
        q = rotate(self.q_proj(x_NLD).reshape(n, length, self.heads, self.head_size), *rope)
        k = rotate(self.k_proj(x_NLD).reshape(n, length, self.kv_heads, self.head_size), *rope)
        v = self.v_proj(x_NLD).reshape(n, length, self.kv_heads, self.head_size)
        k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
        before = None
        if cache is not None:
            cache = cache.write(k, v, layer, index)
            prefix = 0 if cache.shared is None else cache.shared.length
            before = None if cache.shared is None else cache.shared.layer(layer, prefix, k.dtype)
            k, v = cache.layer(layer, mask_NLS.shape[-1] - prefix, k.dtype)
        mixed = attend(q, k, v, mask_NLS) if before is None else attend_behind(q, before, (k, v), mask_NLS)
        return self.o_proj(mixed.reshape(n, length, -1)), cache
