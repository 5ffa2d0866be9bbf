"""The Llama decoder: token embedding, stacked blocks run by a scan, final norm, text head.

In: input embeddings, explicit positions and mask, maybe a cache. Out: states after the final norm, and the cache.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from corl_jax.core.sharding import constrain
from corl_jax.models.attention import SelfAttention
from corl_jax.models.kv_cache import KVCache
from corl_jax.models.layers import linear, rotary, scan_layers, stack, unstack


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Llama decoder: the trunk that both tasks share."""

    vocab_size: int = 102400
    width: int = 2048
    depth: int = 24
    heads: int = 16
    kv_heads: int = 16
    head_size: int = 128
    mlp_dim: int = 5632
    norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    max_length: int = 16384


def rms_norm(width: int, eps: float, dtype: Any, rngs: nnx.Rngs) -> nnx.RMSNorm:
    """Root-mean-square norm; the variance is taken in float32."""
    return nnx.RMSNorm(
        width, epsilon=eps, dtype=dtype, rngs=rngs, scale_metadata={"logical": ("norm",)}
    )


class Block(nnx.Module):
    """Pre-norm attention and SwiGLU."""

    def __init__(self, cfg: DecoderConfig, attention: str, dtype: Any, rngs: nnx.Rngs):
        self.input_norm = rms_norm(cfg.width, cfg.norm_eps, dtype, rngs)
        self.attention = SelfAttention(
            cfg.width,
            cfg.heads,
            cfg.kv_heads,
            cfg.head_size,
            kernel=attention,
            dtype=dtype,
            rngs=rngs,
        )
        self.mlp_norm = rms_norm(cfg.width, cfg.norm_eps, dtype, rngs)
        self.gate_proj = linear(
            cfg.width, cfg.mlp_dim, ("embed", "mlp"), bias=False, dtype=dtype, rngs=rngs
        )
        self.up_proj = linear(
            cfg.width, cfg.mlp_dim, ("embed", "mlp"), bias=False, dtype=dtype, rngs=rngs
        )
        self.down_proj = linear(
            cfg.mlp_dim, cfg.width, ("mlp", "embed"), bias=False, dtype=dtype, rngs=rngs
        )

    def __call__(
        self, x_NLD, rope, mask_NLS, cache: KVCache | None, layer, index
    ) -> tuple[jax.Array, KVCache | None]:
        """See ``SelfAttention.__call__``."""
        mixed, cache = self.attention(self.input_norm(x_NLD), rope, mask_NLS, cache, layer, index)
        return self._feed(x_NLD, mixed), cache

    def shared_prefix_step(self, x_BLD, rope, mask_BPP, mask_NTS) -> jax.Array:
        """See ``SelfAttention.shared_prefix_step``."""
        return self._feed(
            x_BLD,
            self.attention.shared_prefix_step(self.input_norm(x_BLD), rope, mask_BPP, mask_NTS),
        )

    def _feed(self, x_NLD, mixed) -> jax.Array:
        x_NLD = constrain(x_NLD + mixed, "batch")
        h = self.mlp_norm(x_NLD)
        h = self.down_proj(jax.nn.silu(self.gate_proj(h)) * self.up_proj(h))
        return constrain(x_NLD + h, "batch")


class LanguageModel(nnx.Module):
    """Embedding table, trunk and text head; the part that reinforcement learning trains."""

    def __init__(
        self,
        cfg: DecoderConfig,
        *,
        dtype: Any,
        remat: str,
        unroll: int = 1,
        attention: str = "einsum",
        rngs: nnx.Rngs,
    ):
        self.cfg, self.dtype, self.remat, self.unroll = cfg, dtype, remat, unroll
        self.embed = nnx.Embed(
            cfg.vocab_size,
            cfg.width,
            dtype=dtype,
            rngs=rngs,
            embedding_init=nnx.initializers.normal(0.02),
            embedding_metadata={"logical": ("vocab", "embed")},
        )
        self.layers = stack(lambda streams: Block(cfg, attention, dtype, streams), cfg.depth, rngs)
        self.norm = rms_norm(cfg.width, cfg.norm_eps, dtype, rngs)
        self.lm_head = linear(
            cfg.width, cfg.vocab_size, ("embed", "vocab"), bias=False, dtype=dtype, rngs=rngs
        )
        self.cache_dtype = dtype

    def __call__(
        self,
        x_NLD: Float[Array, "N L D"],
        positions: Int[Array, "N L"],
        mask: Bool[Array, "N L S"],
        cache: KVCache | None = None,
        index: Any = 0,
        blocks: tuple[Block, ...] = (),
    ) -> tuple[Float[Array, "N L D"], KVCache | None]:
        """Runs the trunk.

        Args:
          x_NLD: input embeddings.
          positions: rotary positions, below ``S``.
          mask: true where a query (row) may look at a key (column).
          cache: written at ``index`` and attended to as a whole, or None to attend within ``x``.
          index: first cache position of ``x``.
          blocks: from ``blocks``, to run one by one; none runs the stack.

        Returns:
          states after the final norm, and the updated cache.
        """
        rope = self._rope(positions, mask)

        def call(block, slice_):
            layer, (x, cache) = slice_
            return block(x, rope, mask, cache, layer, index)

        carry = (constrain(x_NLD.astype(self.dtype), "batch"), cache)
        if blocks:
            for layer, block in enumerate(blocks):
                carry = call(block, (layer, carry))
            return self.norm(carry[0]), carry[1]
        x_NLD, cache = scan_layers(
            self.layers, call, carry, self.cfg.depth, self.dtype, self.remat, self.unroll
        )
        return self.norm(x_NLD), cache

    def with_shared_prefix(
        self,
        prompt: tuple[Float[Array, "B P D"], Int[Array, "B P"], Bool[Array, "B P P"]],
        own: tuple[Float[Array, "N T D"], Int[Array, "N T"], Bool[Array, "N T PT"]],
    ) -> tuple[Float[Array, "B P D"], Float[Array, "N T D"]]:
        """Runs the trunk over prompts and, behind each, over ``N / B`` rows that share its reading.

        All that belongs to a prompt is one row of every product with a parameter, which then has one gradient to add up
        between devices; only attention takes it apart.

        Args:
          prompt, own: input embeddings, rotary positions below the number of the mask's columns, and mask; that of
            ``own`` covers the prompt's positions and then its own, of which none after the query's.

        Returns:
          states of both after the final norm.
        """
        (x, positions, mask), (x_own, positions_own, mask_own) = prompt, own
        rows, length = positions.shape

        def joined(first, second):
            return jnp.concatenate([first, second.reshape(rows, -1, *second.shape[2:])], 1)

        rope = self._rope(joined(positions, positions_own), mask_own)

        def call(block, slice_):
            return block.shared_prefix_step(slice_[1], rope, mask, mask_own)

        inputs = (constrain(one.astype(self.dtype), "batch") for one in (x, x_own))
        carry = constrain(joined(*inputs), "batch")
        carry = scan_layers(
            self.layers, call, carry, self.cfg.depth, self.dtype, self.remat, self.unroll
        )
        states = self.norm(carry)
        return states[:, :length], states[:, length:].reshape(x_own.shape)

    def _rope(self, positions: Any, mask: Any) -> tuple[jax.Array, jax.Array]:
        """Rotary angles; a position counts what a row may see before it, so it lies below the number of columns."""
        return rotary(positions, mask.shape[-1], self.cfg.head_size, self.cfg.rope_theta)

    def logits(self, states: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """Text logits in float32."""
        return self.lm_head(states).astype(jnp.float32)

    def cached(
        self,
        x_NLD: Float[Array, "N L D"],
        positions: Any,
        mask: Any,
        cache: KVCache,
        index: Any,
        blocks: tuple[Block, ...],
    ) -> tuple[Float[Array, "N L D"], KVCache]:
        """``__call__`` with a cache, which comes back updated."""
        states, updated = self(x_NLD, positions, mask, cache, index, blocks)
        assert updated is not None
        return states, updated

    def separate_layers(self) -> tuple[Block, ...]:
        """The layers one by one for a loop over tokens to call, or none where ``unroll`` leaves a scan over layers.

        Taken apart before the loop, their parameters lie in it as arrays of their own; a CPU would copy every slice of
        a stack at every token.
        """
        return unstack(self.layers, self.cfg.depth) if self.unroll >= self.cfg.depth else ()

    def empty_cache(self, rows: int, length: int) -> KVCache:
        """A cache for ``rows`` sequences of up to ``length`` positions, in the form that ``blocks`` asks for."""
        c = self.cfg
        stacked = self.unroll < c.depth
        return KVCache.empty(
            c.depth, rows, length, c.kv_heads, c.head_size, self.cache_dtype, stacked
        )
