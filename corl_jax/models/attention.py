"""Self-attention with explicit masks: over a sequence, over a cache, or behind a prompt that many rows share.

In: states, rotary angles, masks. Out: mixed states, and the cache.
"""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx

from corl_jax.models.cache import Cache
from corl_jax.models.kernels import attend, kernels
from corl_jax.models.layers import linear, rotate
from corl_jax.models.prefix import attend_behind, attend_causally_behind


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
        q, k, v = self._project(x_NLD, rope)
        before = None
        if cache is not None:
            cache = cache.write(k, v, layer, index)
            prefix = 0 if cache.shared is None else cache.shared.length
            before = None if cache.shared is None else cache.shared.layer(layer, prefix, k.dtype)
            k, v = cache.layer(layer, mask_NLS.shape[-1] - prefix, k.dtype)
        mix = attend if x_NLD.shape[1] == 1 else kernels[self.kernel].attend
        mixed = mix(q, k, v, mask_NLS) if before is None else attend_behind(q, before, (k, v), mask_NLS)
        return self._out(mixed), cache

    def pair(self, prompt, own) -> tuple[jax.Array, jax.Array]:
        """Mixes prompts ``[B, P, D]``, and behind them ``N / B`` rows each ``[N, T, D]``.

        Args:
          prompt, own: states, rotary angles and mask; that of ``own`` covers the prompt's positions and then its own,
            of which none after the query's.
        """
        (x, rope, mask), (x_own, rope_own, mask_own) = prompt, own
        q, k, v = self._project(x, rope)
        q_own, k_own, v_own = self._project(x_own, rope_own)
        mixed = kernels[self.kernel].attend(q, k, v, mask)
        return self._out(mixed), self._out(attend_causally_behind(q_own, (k, v), (k_own, v_own), mask_own))

    def _project(self, x_NLD, rope) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries ``[N, L, H, C]``, keys and values ``[N, K, L, C]``, rotated."""
        n, length, _ = x_NLD.shape
        q = rotate(self.q_proj(x_NLD).reshape(n, length, self.heads, self.head_size), *rope)
        k = rotate(self.k_proj(x_NLD).reshape(n, length, self.kv_heads, self.head_size), *rope)
        v = self.v_proj(x_NLD).reshape(n, length, self.kv_heads, self.head_size)
        return q, k.swapaxes(1, 2), v.swapaxes(1, 2)

    def _out(self, mixed_NLHC) -> jax.Array:
        return self.o_proj(mixed_NLHC.reshape(*mixed_NLHC.shape[:2], -1))
