"""Self-attention with explicit masks: over a sequence, over a cache, or behind a prompt that many rows share.

In: states, rotary angles, masks. Out: mixed states, and the cache.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from corl_jax.models.attention_kernels import attend, kernels
from corl_jax.models.kv_cache import KVCache
from corl_jax.models.layers import linear, rotate
from corl_jax.models.shared_prefix import attend_shared_prefix, attend_shared_prefix_causally


class SelfAttention(nnx.Module):
    """Rotary grouped-query self-attention without biases (Llama).

    ``kernel`` is a name in ``models.attention_kernels``.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        head_size: int,
        *,
        kernel: str,
        dtype: Any,
        rngs: nnx.Rngs,
    ):
        self.heads, self.kv_heads, self.head_size, self.kernel = heads, kv_heads, head_size, kernel
        self.q_proj = linear(
            width, heads * head_size, ("embed", "heads"), bias=False, dtype=dtype, rngs=rngs
        )
        self.k_proj = linear(
            width, kv_heads * head_size, ("embed", "kv_heads"), bias=False, dtype=dtype, rngs=rngs
        )
        self.v_proj = linear(
            width, kv_heads * head_size, ("embed", "kv_heads"), bias=False, dtype=dtype, rngs=rngs
        )
        self.o_proj = linear(
            heads * head_size, width, ("heads", "embed"), bias=False, dtype=dtype, rngs=rngs
        )

    def __call__(
        self, x_NLD, rope, mask_NLS, cache: KVCache | None, layer, index
    ) -> tuple[jax.Array, KVCache | None]:
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
        q, k, v = heads_first(*self._project(x_NLD, rope))
        before = None
        if cache is not None:
            cache = cache.write(k, v, layer, index)
            prefix = 0 if cache.shared is None else cache.shared.length
            before = None if cache.shared is None else cache.shared.layer(layer, prefix, k.dtype)
            k, v = cache.layer(layer, mask_NLS.shape[-1] - prefix, k.dtype)
        mix = attend if x_NLD.shape[1] == 1 else kernels[self.kernel].attend
        mixed = (
            mix(q, k, v, mask_NLS)
            if before is None
            else attend_shared_prefix(q, before, (k, v), mask_NLS)
        )
        return self._out(mixed), cache

    def shared_prefix_step(self, x_BLD, rope, mask_BPP, mask_NTS) -> jax.Array:
        """Mixes prompts, and behind each the ``N / B`` rows that follow it in ``x``.

        Args:
          x_BLD: ``[B, P + N / B T, D]``, the states of a prompt and then those of its rows.
          rope: of all of them.
          mask_BPP: of the prompts.
          mask_NTS: of the rows, over the prompt's ``P`` positions and then the row's own, none after the query's.
        """
        (prompts, length, _), (rows, own, _) = mask_BPP.shape, mask_NTS.shape
        projected = self._project(x_BLD, rope)
        q, k, v = heads_first(*(leaf[:, :length] for leaf in projected))
        q_own, k_own, v_own = heads_first(
            *(leaf[:, length:].reshape(rows, own, *leaf.shape[2:]) for leaf in projected)
        )
        mixed = kernels[self.kernel].attend(q, k, v, mask_BPP)
        mixed_own = attend_shared_prefix_causally(q_own, (k, v), (k_own, v_own), mask_NTS)
        return self._out(
            jnp.concatenate([mixed, mixed_own.reshape(prompts, -1, *mixed.shape[2:])], 1)
        )

    def _project(self, x_NLD, rope) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries ``[N, L, H, C]``, keys and values ``[N, L, K, C]``, rotated."""
        n, length, _ = x_NLD.shape
        q = rotate(self.q_proj(x_NLD).reshape(n, length, self.heads, self.head_size), *rope)
        k = rotate(self.k_proj(x_NLD).reshape(n, length, self.kv_heads, self.head_size), *rope)
        v = self.v_proj(x_NLD).reshape(n, length, self.kv_heads, self.head_size)
        return q, k, v

    def _out(self, mixed_NLHC) -> jax.Array:
        return self.o_proj(mixed_NLHC.reshape(*mixed_NLHC.shape[:2], -1))


def heads_first(q_NLHC, k_NLKC, v_NLKC) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Keys and values ``[N, K, L, C]``, as attention reads them and a cache holds them; queries stay."""
    return q_NLHC, k_NLKC.swapaxes(1, 2), v_NLKC.swapaxes(1, 2)
