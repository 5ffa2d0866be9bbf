"""The text encoders BERT and MPNet, with bidirectional attention.

In: token ids ``[N, L]``, padded on the right. Out: one state per token, ``[N, L, D]``.

Compatible with ``BertModel`` and ``MPNetModel`` of transformers: norms after the residual sums,
exact GELU, learned positions. ``BertConfig`` holds all the differences: BERT adds a token type;
MPNet adds an attention bias by distance that all layers share, and counts positions from after its
padding id.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from corl_jax.core.sharding import constrain
from corl_jax.models.janus.vision_tower import layer_norm
from corl_jax.models.layers import linear, scan_layers, stack

MAX_DISTANCE = 128
"""Distances from here on share the last bucket of their direction, as in transformers."""


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Sizes of an encoder.

    Attributes:
      vocab_size: rows of the table of word pieces.
      width: width of the states.
      depth: number of layers.
      heads: attention heads.
      mlp_dim: inner width of the feed-forward part.
      positions: rows of the table of positions.
      first_position: row of the first token: 0, or the row after the padding id.
      token_types: rows of the table of token types, of which only the first is used; 0 for none
        (MPNet).
      buckets: buckets of distances between tokens; 0 for none (BERT).
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
        """Tokens of the longest text, start and end token included."""
        return self.positions - self.first_position


class BertBlock(nnx.Module):
    """Attention, residual sum, norm; GELU MLP, residual sum, norm; all with biases."""

    def __init__(self, cfg: BertConfig, dtype: DTypeLike, rngs: nnx.Rngs):
        self.heads = cfg.heads

        # Attention.
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

        # MLP.
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
        """One block.

        Args:
          x_NLD: states.
          lengths_N: tokens of each row; no token attends to the padding after them.
          bias_HLS: added to the attention logits of every row.
        """
        # Attention: [N, L, D] to queries, keys and values [N, L, H, C].
        heads_shape = (*x_NLD.shape[:2], self.heads, x_NLD.shape[2] // self.heads)
        q, k, v = (
            proj(x_NLD).reshape(heads_shape) for proj in (self.q_proj, self.k_proj, self.v_proj)
        )

        # The kernels of models/attention_kernels.py accept no bias.
        attended = jax.nn.dot_product_attention(
            q, k, v, bias_HLS, key_value_seq_lengths=lengths_N, implementation="xla"
        )
        x_NLD = self.norm1(x_NLD + self.o_proj(attended.reshape(x_NLD.shape)))

        # MLP.
        hidden = self.fc2(jax.nn.gelu(self.fc1(x_NLD), approximate=False))
        return constrain(self.norm2(x_NLD + hidden), "batch")


class Bert(nnx.Module):
    """Embeddings, norm, blocks."""

    def __init__(self, cfg: BertConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.cfg = cfg
        self.dtype = dtype

        def embedding_table(rows: int, width: int, axis: str | None) -> nnx.Param:
            return nnx.Param(
                nnx.initializers.normal(0.02)(rngs.params(), (rows, width)), logical=(None, axis)
            )

        # Rows are not sharded: the vocabularies of these models seldom divide over devices.
        self.words = embedding_table(cfg.vocab_size, cfg.width, "embed")
        self.positions = embedding_table(cfg.positions, cfg.width, "embed")

        # The tables that only BERT and only MPNet have.
        if cfg.token_types:
            self.types = embedding_table(cfg.token_types, cfg.width, "embed")
        if cfg.buckets:
            self.distances = embedding_table(cfg.buckets, cfg.heads, None)

        # The norm comes before the blocks; each block ends with one of its own.
        self.norm = layer_norm(cfg.width, cfg.norm_eps, dtype, rngs)
        self.layers = stack(lambda streams: BertBlock(cfg, dtype, streams), cfg.depth, rngs)

    def __call__(
        self, tokens_NL: Int[Array, "N L"], lengths_N: Int[Array, "N"]
    ) -> Float[Array, "N L D"]:
        """States of the last layer.

        Args:
          tokens_NL: ids, at most ``cfg.max_tokens`` wide, padded at the end of each row.
          lengths_N: tokens of each row, at least 1.

        Returns:
          ``[N, L, D]``; the states of padding have no meaning.
        """
        cfg = self.cfg
        length = tokens_NL.shape[1]

        # Embeddings; every token has type 0.
        end_position = cfg.first_position + length
        x = self.words[...][tokens_NL] + self.positions[...][cfg.first_position : end_position]
        if cfg.token_types:
            x = x + self.types[...][0]
        x = constrain(self.norm(x.astype(self.dtype)), "batch")

        # MPNet's bias by distance, the same in every layer: [L, S, H] to [1, H, L, S].
        bias = None
        if cfg.buckets:
            bias_LSH = self.distances[...][relative_position_buckets(length, cfg.buckets)]
            bias = jnp.moveaxis(bias_LSH, 2, 0)[None].astype(self.dtype)

        return scan_layers(
            self.layers,
            lambda block, index_and_x: block(index_and_x[1], lengths_N, bias),
            x,
            cfg.depth,
            self.dtype,
        )


def relative_position_buckets(length: int, bucket_count: int) -> np.ndarray:
    """Bucket ``[L, S]`` of the distance from each token to each other token.

    Half of the ``bucket_count`` buckets are for either direction. Near distances have a bucket
    each; far ones share the rest, evenly on a logarithmic scale up to ``MAX_DISTANCE`` (T5, Raffel
    et al. 2020, section 2.1; compatible with ``relative_position_bucket`` of MPNet in
    transformers).
    """
    # Positive where the other token comes later.
    distance = np.arange(length)[None] - np.arange(length)[:, None]
    per_direction = bucket_count // 2
    near_count = bucket_count // 4

    # The logarithm of 0 is avoided; those distances are near and do not use it.
    steps = np.maximum(np.abs(distance), 1).astype(np.float32)
    log_share = np.log(steps / near_count) / np.float32(np.log(MAX_DISTANCE / near_count))
    far_bucket = near_count + (log_share * (per_direction - near_count)).astype(np.int32)
    far_bucket = np.minimum(far_bucket, per_direction - 1)

    # Later tokens have the second half of the buckets.
    bucket = np.where(np.abs(distance) < near_count, np.abs(distance), far_bucket)
    return bucket + per_direction * (distance > 0)
