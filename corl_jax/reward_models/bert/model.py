"""Encoders of text that look both ways, BERT and MPNet. In: token ids, padded on the right; out: one state per token.

Compatible with ``BertModel`` and ``MPNetModel`` of transformers: norms after the sums, exact GELU, learned positions.
The two differ in what ``BertConfig`` says: BERT adds a token type, MPNet a bias by distance that all layers share, and
MPNet counts positions from behind its padding id.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from corl_jax.core.sharding import constrain
from corl_jax.models.janus.vision_tower import layer_norm
from corl_jax.models.layers import linear, scan_layers, stack

FURTHEST = 128
"""Distances from here on share the last bucket of their direction (``relative_position_bucket`` of transformers)."""


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Sizes of an encoder.

    Attributes:
      vocab_size: rows of the table of words. width: of the states. depth: layers.
      heads: of attention. mlp_dim: inner width of the feed-forward part.
      positions: rows of the table of positions. first_position: row of the first token; 0, or behind the padding id.
      token_types: rows of the table of types, of which the first alone is used; 0 for none (MPNet).
      buckets: of distances between tokens; 0 for none (BERT).
      norm_eps: epsilon of the layer norms.
    """

    vocab_size: int
    width: int
    depth: int
    heads: int
    mlp_dim: int
    positions: int
    first_position: int = 0
    token_types: int = 0
    buckets: int = 0
    norm_eps: float = 1e-12

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest text, those at its ends included."""
        return self.positions - self.first_position


class BertBlock(nnx.Module):
    """Attention, sum, norm; GELU MLP, sum, norm; all with biases."""

    def __init__(self, cfg: BertConfig, dtype: Any, rngs: nnx.Rngs):
        self.heads = cfg.heads
        self.q_proj = linear(
            cfg.width, cfg.width, ("embed", "heads"), bias=True, dtype=dtype, rngs=rngs
        )
        self.k_proj = linear(
            cfg.width, cfg.width, ("embed", "heads"), bias=True, dtype=dtype, rngs=rngs
        )
        self.v_proj = linear(
            cfg.width, cfg.width, ("embed", "heads"), bias=True, dtype=dtype, rngs=rngs
        )
        self.o_proj = linear(
            cfg.width, cfg.width, ("heads", "embed"), bias=True, dtype=dtype, rngs=rngs
        )
        self.norm1 = layer_norm(cfg.width, cfg.norm_eps, dtype, rngs)
        self.fc1 = linear(
            cfg.width, cfg.mlp_dim, ("embed", "mlp"), bias=True, dtype=dtype, rngs=rngs
        )
        self.fc2 = linear(
            cfg.mlp_dim, cfg.width, ("mlp", "embed"), bias=True, dtype=dtype, rngs=rngs
        )
        self.norm2 = layer_norm(cfg.width, cfg.norm_eps, dtype, rngs)

    def __call__(
        self,
        x_NLD: Float[Array, "N L D"],
        lengths_N: Int[Array, "N"],
        bias_HLS: Float[Array, "1 H L S"] | None,
    ) -> Float[Array, "N L D"]:
        """One block; no token sees what lies behind the end of its row. ``bias_HLS`` is added to the scores."""
        heads = (*x_NLD.shape[:2], self.heads, x_NLD.shape[2] // self.heads)
        q, k, v = (proj(x_NLD).reshape(heads) for proj in (self.q_proj, self.k_proj, self.v_proj))
        mixed = (
            jax.nn.dot_product_attention(  # the kernels of models/attention_kernels.py know no bias
                q, k, v, bias_HLS, key_value_seq_lengths=lengths_N, implementation="xla"
            )
        )
        x_NLD = self.norm1(x_NLD + self.o_proj(mixed.reshape(x_NLD.shape)))
        h = self.fc2(jax.nn.gelu(self.fc1(x_NLD), approximate=False))
        return constrain(self.norm2(x_NLD + h), "batch")


class Bert(nnx.Module):
    """Embeddings, norm, blocks."""

    def __init__(self, cfg: BertConfig, *, dtype: Any = jnp.float32, rngs: nnx.Rngs):
        self.cfg, self.dtype = cfg, dtype

        def table(rows: int, width: int, axis: str | None) -> nnx.Param:
            return nnx.Param(
                nnx.initializers.normal(0.02)(rngs.params(), (rows, width)), logical=(None, axis)
            )

        self.words = table(
            cfg.vocab_size, cfg.width, "embed"
        )  # vocabularies of these models seldom divide
        self.positions = table(cfg.positions, cfg.width, "embed")
        if cfg.token_types:
            self.types = table(cfg.token_types, cfg.width, "embed")
        if cfg.buckets:
            self.distances = table(cfg.buckets, cfg.heads, None)
        self.norm = layer_norm(cfg.width, cfg.norm_eps, dtype, rngs)
        self.layers = stack(lambda streams: BertBlock(cfg, dtype, streams), cfg.depth, rngs)

    def __call__(
        self, tokens_NL: Int[Array, "N L"], lengths_N: Int[Array, "N"]
    ) -> Float[Array, "N L D"]:
        """States of the last layer.

        Args:
          tokens_NL: ids, at most ``cfg.max_tokens`` wide; what fills up a row stands at its end.
          lengths_N: tokens of each row, at least 1.

        Returns:
          ``[N, L, D]``; what stands behind the end of a row means nothing.
        """
        cfg, length = self.cfg, tokens_NL.shape[1]
        x = (
            self.words[...][tokens_NL]
            + self.positions[...][cfg.first_position : cfg.first_position + length]
        )
        if cfg.token_types:
            x = x + self.types[...][0]
        x = constrain(self.norm(x.astype(self.dtype)), "batch")
        bias = None
        if cfg.buckets:
            bias = jnp.moveaxis(self.distances[...][buckets(length, cfg.buckets)], 2, 0)[
                None
            ].astype(self.dtype)
        return scan_layers(
            self.layers,
            lambda block, slice_: block(slice_[1], lengths_N, bias),
            x,
            cfg.depth,
            self.dtype,
        )


def buckets(length: int, number: int) -> np.ndarray:
    """Bucket ``[L, S]`` of the distance from each token to each other, half of the ``number`` for either direction.

    Near distances have a bucket each, far ones share them evenly on a scale of logarithms up to ``FURTHEST`` (T5,
    Raffel et al. 2020, 2.1; compatible with MPNet of transformers).
    """
    distance = np.arange(length)[None] - np.arange(length)[:, None]
    half, near = number // 2, number // 4
    steps = np.maximum(np.abs(distance), 1).astype(np.float32)
    scale = np.log(steps / near) / np.float32(np.log(FURTHEST / near))
    far = np.minimum(near + (scale * (half - near)).astype(np.int32), half - 1)
    return np.where(np.abs(distance) < near, np.abs(distance), far) + half * (distance > 0)
