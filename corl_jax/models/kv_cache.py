"""The key/value cache. In: keys and values as tokens are read or written; out: those of one layer.

What all samples of a prompt have in common is kept once: a cache may have a ``shared`` one before it, with a row per
prompt instead of a row per sample.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from corl_jax.core.types import pytree
from corl_jax.models.int8 import Int8


@pytree()
class KVCache:
    """Keys and values, heads first, so that attention reads them as they lie; the mask hides what is not yet written.

    Attributes:
      k, v: ``[Y, N, K, L, C]`` for layers that run as a scan; for layers that run one by one a tuple of ``Y`` arrays
        ``[N, K, L, C]``, each of which a loop over tokens updates in place and reads without a copy. Arrays, or
        ``Int8`` scaled along ``C``.
      shared: positions before these, which ``N / B`` rows side by side have in common, as a cache of ``B`` rows.
    """

    k: Any
    v: Any
    shared: KVCache | None = None

    @classmethod
    def empty(
        cls,
        layers: int,
        rows: int,
        length: int,
        kv_heads: int,
        head_size: int,
        dtype: Any,
        stacked: bool = True,
    ) -> KVCache:
        """A cache of zeros; with ``dtype`` int8 every position of a head has a scale of its own."""

        def zeros(*shape: int) -> Any:
            values = jnp.zeros(shape, dtype)
            return (
                Int8(values, jnp.zeros((*shape[:-1], 1), jnp.float32))
                if dtype == jnp.int8
                else values
            )

        one = (rows, kv_heads, length, head_size)
        empty = zeros(layers, *one) if stacked else tuple(zeros(*one) for _ in range(layers))
        return cls(empty, empty)

    @property
    def length(self) -> int:
        """``L``, positions it has room for."""
        return jax.tree.leaves(self.k)[0].shape[-2]

    def fork(self, times: int) -> KVCache:
        """``times`` rows behind every row of this one, which they share; they have no room of their own yet."""
        none = jax.tree.map(lambda leaf: jnp.repeat(leaf[..., :0, :], times, leaf.ndim - 4), self)
        return KVCache(none.k, none.v, self)

    def grow(self, length: int) -> KVCache:
        """Room for ``length`` positions of its own, of which the new ones are zeros."""

        def pad(leaf: jax.Array) -> jax.Array:
            return jnp.pad(leaf, [(0, 0)] * (leaf.ndim - 2) + [(0, length - self.length), (0, 0)])

        k, v = jax.tree.map(pad, (self.k, self.v))
        return KVCache(k, v, self.shared)

    def layer(self, layer: Any, reads: int, dtype: Any) -> tuple[jax.Array, jax.Array]:
        """Keys and values ``[N, K, reads, C]`` of one layer, its first positions."""
        k, v = (_slice(x, layer, reads) for x in (self.k, self.v))
        return _as(k, dtype), _as(v, dtype)

    def write(self, k_NKLC: Any, v_NKLC: Any, layer: Any, index: Any) -> KVCache:
        """Puts keys and values of ``layer`` at its own position ``index``."""
        pairs = ((self.k, k_NKLC), (self.v, v_NKLC))
        if isinstance(self.k, tuple):
            k, v = (_put(old[layer], new, (0, 0, index, 0)) for old, new in pairs)
            after = slice(layer + 1, None)
            return KVCache(
                (*self.k[:layer], k, *self.k[after]),
                (*self.v[:layer], v, *self.v[after]),
                self.shared,
            )
        k, v = (_put(old, new[None], (layer, 0, 0, index, 0)) for old, new in pairs)
        return KVCache(k, v, self.shared)


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
