"""The Llama decoder: token embedding, stacked layers that run as a scan, final norm, text head.

Input embeddings, explicit positions and mask go in, with or without a KV cache. States after the
final norm come out, and the updated cache.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from corl_jax.core.sharding import constrain
from corl_jax.models.attention import SelfAttention
from corl_jax.models.kv_cache import Index, KVCache
from corl_jax.models.layers import (
    RotaryAngles,
    linear,
    rotary_angles,
    scan_layers,
    stack,
    unstack,
)
from corl_jax.models.products import round_to


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Sizes of a Llama decoder, the backbone that both tasks share."""

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


MIN_SEPARATE_BYTES = 2**28
"""Bytes of the decoder's matrices from which a GPU decodes layer by layer. Smaller ones stay in its
L2 cache (50 MB on an H100) or nearly, and copies there cost less than compiling each layer."""


def decodes_separately(cfg: DecoderConfig, dtype: DTypeLike, platform: str) -> bool:
    """Whether decoding on ``platform`` runs the layers one by one where training runs a scan.

    A GPU's compiler copies every layer out of a stack before its products, at every token: three
    times the bytes of the weights. A TPU reads slices where they are.
    """
    heads = 2 * (cfg.heads + cfg.kv_heads) * cfg.head_size
    elements = cfg.depth * cfg.width * (heads + 3 * cfg.mlp_dim)
    return platform == "gpu" and elements * jnp.dtype(dtype).itemsize >= MIN_SEPARATE_BYTES


class RmsNorm(nnx.RMSNorm):
    """Root-mean-square norm, computed in float32 and rounded to ``dtype`` once."""

    def __init__(self, width: int, eps: float, dtype: DTypeLike, rngs: nnx.Rngs):
        super().__init__(
            width,
            epsilon=eps,
            dtype=jnp.float32,
            rngs=rngs,
            scale_metadata={"logical": ("norm",)},
        )
        self.output_dtype = dtype

    def __call__(
        self, x: Float[Array, "... D"], mask: Bool[Array, "... D"] | None = None
    ) -> Float[Array, "... D"]:
        """``[..., D]`` to ``[..., D]``."""
        return round_to(super().__call__(x, mask=mask), self.output_dtype)


class Block(nnx.Module):
    """One decoder layer: pre-norm attention and SwiGLU."""

    def __init__(self, cfg: DecoderConfig, attention: str, dtype: DTypeLike, rngs: nnx.Rngs):
        # Attention.
        self.input_norm = RmsNorm(cfg.width, cfg.norm_eps, dtype, rngs)
        self.attention = SelfAttention(
            cfg.width,
            cfg.heads,
            cfg.kv_heads,
            cfg.head_size,
            kernel=attention,
            dtype=dtype,
            rngs=rngs,
        )

        # SwiGLU. The tensor axis shards the hidden units: the outputs of gate and up, the inputs of
        # down. So a device never needs the hidden units of another.
        self.mlp_norm = RmsNorm(cfg.width, cfg.norm_eps, dtype, rngs)
        self.gate_proj = linear(
            cfg.width, cfg.mlp_dim, ("embed", "mlp"), bias=False, dtype=dtype, rngs=rngs
        )
        self.up_proj = linear(
            cfg.width, cfg.mlp_dim, ("embed", "mlp"), bias=False, dtype=dtype, rngs=rngs
        )
        self.down_proj = linear(
            cfg.mlp_dim, cfg.width, ("mlp", "embed"), bias=False, dtype=dtype, rngs=rngs, wide=True
        )

    def __call__(
        self,
        x_NLD: Float[Array, "N L D"],
        rope: RotaryAngles,
        mask_NLS: Bool[Array, "N L S"],
        cache: KVCache | None,
        layer: Index,
        index: Index,
    ) -> tuple[Float[Array, "N L D"], KVCache | None]:
        """See ``SelfAttention.__call__``."""
        mixed_NLD, cache = self.attention(
            self.input_norm(x_NLD), rope, mask_NLS, cache, layer, index
        )
        return self._residual_mlp(x_NLD, mixed_NLD), cache

    def shared_prefix_step(
        self,
        x_BLD: Float[Array, "B L D"],
        rope: RotaryAngles,
        mask_BPP: Bool[Array, "B P P"],
        mask_NTS: Bool[Array, "N T PT"],
    ) -> Float[Array, "B L D"]:
        """See ``SelfAttention.shared_prefix_step``."""
        mixed_BLD = self.attention.shared_prefix_step(
            self.input_norm(x_BLD), rope, mask_BPP, mask_NTS
        )
        return self._residual_mlp(x_BLD, mixed_BLD)

    def _residual_mlp(
        self, x_NLD: Float[Array, "N L D"], mixed_NLD: Float[Array, "N L D"]
    ) -> Float[Array, "N L D"]:
        """Adds what attention has mixed to ``x``, and then the MLP of the sum."""
        # Between layers activations are sharded by rows only; the tensor axis is for heads and MLP.
        # What joins the residual stream is float32, and rounded as part of the sum.
        x_NLD = constrain(round_to(x_NLD + mixed_NLD, x_NLD.dtype), "batch")
        h_NLD = self.mlp_norm(x_NLD)
        gate_NLF, up_NLF = (
            project(h_NLD).astype(jnp.float32) for project in (self.gate_proj, self.up_proj)
        )
        h_NLF = round_to(jax.nn.silu(gate_NLF) * up_NLF, x_NLD.dtype)
        return constrain(round_to(x_NLD + self.down_proj(h_NLF), x_NLD.dtype), "batch")


class LanguageModel(nnx.Module):
    """Embedding table, backbone and text head; the part that reinforcement learning trains.

    Args:
      cfg: sizes.
      dtype: compute dtype.
      remat, unroll: see ``layers.scan_layers``. With ``unroll`` of at least the depth, decoding
        runs the layers one by one, see ``separate_layers``.
      attention: a name in ``models.attention_kernels``.
      separate_decoding: decoding runs the layers one by one whatever ``unroll`` is, see
        ``decodes_separately``.
    """

    def __init__(
        self,
        cfg: DecoderConfig,
        *,
        dtype: DTypeLike,
        remat: str,
        unroll: int = 1,
        attention: str = "einsum",
        separate_decoding: bool = False,
        rngs: nnx.Rngs,
    ):
        self.cfg, self.dtype, self.remat, self.unroll = cfg, dtype, remat, unroll
        self.separate_decoding = separate_decoding or unroll >= cfg.depth

        # Token embedding and text head are separate parameters.
        self.embed = nnx.Embed(
            cfg.vocab_size,
            cfg.width,
            dtype=dtype,
            rngs=rngs,
            embedding_init=nnx.initializers.normal(0.02),
            embedding_metadata={"logical": ("vocab", "embed")},
        )
        # One module for all layers, so that a scan traces and compiles a single layer.
        self.layers = stack(lambda layer: Block(cfg, attention, dtype, layer), cfg.depth, rngs)
        self.norm = RmsNorm(cfg.width, cfg.norm_eps, dtype, rngs)
        self.lm_head = linear(
            cfg.width,
            cfg.vocab_size,
            ("embed", "vocab"),
            bias=False,
            dtype=dtype,
            rngs=rngs,
            wide=True,
        )
        # Int8 sampling replaces it, see ``int8.quantize_int8``.
        self.cache_dtype = dtype

    def __call__(
        self,
        x_NLD: Float[Array, "N L D"],
        positions: Int[Array, "N L"],
        mask: Bool[Array, "N L S"],
        cache: KVCache | None = None,
        index: Index = 0,
        layers: tuple[Block, ...] = (),
    ) -> tuple[Float[Array, "N L D"], KVCache | None]:
        """Runs the backbone.

        Args:
          x_NLD: input embeddings.
          positions: rotary positions, below ``S``.
          mask: true where a query (row) attends to a key (column).
          cache: written from ``index`` on and attended to, or None to attend within ``x``.
          index: first cache position of ``x``.
          layers: from ``separate_layers``, to run one by one; () runs the stack as a scan.

        Returns:
          states after the final norm, and the updated cache.
        """
        # All layers use the same angles.
        rope = self._rope(positions, mask)

        def run_layer(block, index_and_carry):
            layer, (x_NLD, cache) = index_and_carry
            return block(x_NLD, rope, mask, cache, layer, index)

        # The cache of all layers is carried too, so that each layer updates it in place.
        carry = (constrain(x_NLD.astype(self.dtype), "batch"), cache)
        if layers:
            for layer, block in enumerate(layers):
                carry = run_layer(block, (layer, carry))
        else:
            carry = self._scan(run_layer, carry)
        x_NLD, cache = carry
        return self.norm(x_NLD), cache

    def with_shared_prefix(
        self,
        prompts: tuple[Float[Array, "B P D"], Int[Array, "B P"], Bool[Array, "B P P"]],
        completions: tuple[Float[Array, "N T D"], Int[Array, "N T"], Bool[Array, "N T PT"]],
    ) -> tuple[Float[Array, "B P D"], Float[Array, "N T D"]]:
        """Runs the backbone over prompts and their completions, ``G = N / B`` of each, at once.

        A prompt is computed once for all its completions. Prompt and completions form one row, so
        each parameter takes part in one product and has one gradient to sum over devices. Only
        attention separates them, see ``shared_prefix.py``.

        Args:
          prompts: input embeddings, rotary positions and mask.
          completions: the same of the completions. Positions are below the number of the mask's
            columns, which are the prompt's and then the completion's, none after the query.

        Returns:
          states of prompts and of completions after the final norm.
        """
        x_BPD, prompt_positions, prompt_mask = prompts
        x_NTD, completion_positions, completion_mask = completions
        rows, prompt_length = prompt_positions.shape

        def concatenate(prompt_leaf, completion_leaf):
            """``[B, P, ...]`` and ``[N, T, ...]`` to ``[B, P + G * T, ...]``."""
            by_prompt = completion_leaf.reshape(rows, -1, *completion_leaf.shape[2:])
            return jnp.concatenate([prompt_leaf, by_prompt], 1)

        # The completions' mask has P + T columns, more than any position of either part.
        rope = self._rope(concatenate(prompt_positions, completion_positions), completion_mask)

        def run_layer(block, index_and_carry):
            _, x_BLD = index_and_carry
            return block.shared_prefix_step(x_BLD, rope, prompt_mask, completion_mask)

        # A row of the layers is a prompt with its completions; at the end they are separated again.
        x_BPD = constrain(x_BPD.astype(self.dtype), "batch")
        inputs_NTD = constrain(x_NTD.astype(self.dtype), "batch")
        x_BLD = constrain(concatenate(x_BPD, inputs_NTD), "batch")
        states_BLD = self.norm(self._scan(run_layer, x_BLD))
        return states_BLD[:, :prompt_length], states_BLD[:, prompt_length:].reshape(x_NTD.shape)

    def _scan(self, run_layer, carry):
        """``carry`` after all layers of the stack."""
        return scan_layers(
            self.layers, run_layer, carry, self.cfg.depth, self.dtype, self.remat, self.unroll
        )

    def _rope(self, positions: Int[Array, "N L"], mask: Bool[Array, "N L S"]) -> RotaryAngles:
        """Rotary angles; a position counts visible ones before it, so it is below ``S``."""
        return rotary_angles(positions, mask.shape[-1], self.cfg.head_size, self.cfg.rope_theta)

    def logits(self, states: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """Text logits in float32."""
        return self.lm_head(states)

    def cached(
        self,
        x_NLD: Float[Array, "N L D"],
        positions: Int[Array, "N L"],
        mask: Bool[Array, "N L S"],
        cache: KVCache,
        index: Index,
        layers: tuple[Block, ...],
    ) -> tuple[Float[Array, "N L D"], KVCache]:
        """``__call__`` with a cache, which is returned updated."""
        # With a cache given, ``__call__`` returns one; the assertion tells the type checker.
        states, updated = self(x_NLD, positions, mask, cache, index, layers)
        assert updated is not None
        return states, updated

    def separate_layers(self) -> tuple[Block, ...]:
        """The layers one by one for a decoding loop, or () where they run as a scan.

        Unstacked before the loop, their parameters are separate arrays inside it. A CPU or a GPU
        would copy every slice of a stack at every token.
        """
        # The same condition chooses the form of the cache in ``empty_cache``.
        return unstack(self.layers, self.cfg.depth) if self.separate_decoding else ()

    @property
    def grows_cache(self) -> bool:
        """Whether a decoding loop should have a cache no longer than what it reads.

        A CPU copies the part of a longer cache that it reads. A GPU reads it where it is, and would
        need room for two caches to make one longer.
        """
        return self.unroll >= self.cfg.depth

    def empty_cache(self, rows: int, length: int) -> KVCache:
        """A cache for ``rows`` sequences of up to ``length`` positions.

        It is stacked where the layers run as a scan, and in separate arrays where they do not.
        """
        c = self.cfg
        stacked = not self.separate_decoding
        return KVCache.empty(
            c.depth, rows, length, c.kv_heads, c.head_size, self.cache_dtype, stacked
        )
