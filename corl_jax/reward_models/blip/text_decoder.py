"""The text decoder of BLIP: writes a caption while looking at a picture. In: token ids, picture states; out: logits.

Post-norm like BERT, with causal self-attention, cross-attention to the picture, and a head tied to the word embeddings.
Compatible with ``BlipTextLMHeadModel`` (transformers 5); Li et al. 2022, "BLIP", section 3.1.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from corl_jax.core.sharding import constrain
from corl_jax.models.attention_kernels import attend
from corl_jax.models.janus.vision_tower import layer_norm
from corl_jax.models.layers import linear

KeyValue = tuple[Float[Array, "N K S C"], Float[Array, "N K S C"]]
"""Keys and values of one layer, heads first."""


@dataclasses.dataclass(frozen=True)
class CaptionTextConfig:
    """BERT-style decoder; a caption starts behind ``bos_id`` and ends with ``sep_id``."""

    vocab_size: int = 30524
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_dim: int = 3072
    norm_eps: float = 1e-12
    max_length: int = 512
    bos_id: int = 30522
    sep_id: int = 102
    pad_id: int = 0


class Attention(nnx.Module):
    """Attention with biases, added to its input and normalised after; keys and values come from ``source`` states."""

    def __init__(self, cfg: CaptionTextConfig, source: tuple[int, str], dtype: Any, rngs: nnx.Rngs):
        self.heads = cfg.heads
        width, axis = source
        self.q_proj = linear(
            cfg.width, cfg.width, ("embed", "heads"), bias=True, dtype=dtype, rngs=rngs
        )
        self.k_proj = linear(width, cfg.width, (axis, "heads"), bias=True, dtype=dtype, rngs=rngs)
        self.v_proj = linear(width, cfg.width, (axis, "heads"), bias=True, dtype=dtype, rngs=rngs)
        self.o_proj = linear(
            cfg.width, cfg.width, ("heads", "embed"), bias=True, dtype=dtype, rngs=rngs
        )
        self.norm = layer_norm(cfg.width, cfg.norm_eps, dtype, rngs)

    def keys(self, states_NSD: Float[Array, "N S D"]) -> KeyValue:
        """Keys and values of ``states``, ``[N, H, S, C]`` each."""
        key, value = (
            self._split(proj(states_NSD)).swapaxes(1, 2) for proj in (self.k_proj, self.v_proj)
        )
        return constrain(key, "batch"), constrain(value, "batch")

    def __call__(
        self, x_NLD: Float[Array, "N L D"], seen: KeyValue, mask: Bool[Array, "1 L S"] | None
    ) -> Float[Array, "N L D"]:
        """``x`` after looking at ``seen`` where ``mask`` is true (None: everywhere)."""
        mixed = attend(self._split(self.q_proj(x_NLD)), *seen, mask)
        return self.norm(x_NLD + self.o_proj(mixed.reshape(x_NLD.shape)))

    def _split(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], self.heads, -1)


class CaptionBlock(nnx.Module):
    """Causal self-attention, cross-attention to the picture, a GELU MLP; a norm after each of them."""

    def __init__(self, cfg: CaptionTextConfig, vision_width: int, dtype: Any, rngs: nnx.Rngs):
        self.attention = Attention(cfg, (cfg.width, "embed"), dtype, rngs)
        self.cross = Attention(cfg, (vision_width, "vision"), dtype, rngs)
        self.fc1 = linear(
            cfg.width, cfg.mlp_dim, ("embed", "mlp"), bias=True, dtype=dtype, rngs=rngs
        )
        self.fc2 = linear(
            cfg.mlp_dim, cfg.width, ("mlp", "embed"), bias=True, dtype=dtype, rngs=rngs
        )
        self.norm = layer_norm(cfg.width, cfg.norm_eps, dtype, rngs)

    def __call__(
        self,
        x_NLD: Float[Array, "N L D"],
        picture: KeyValue,
        cache: KeyValue,
        start: Any,
        mask: Bool[Array, "1 L S"],
    ) -> tuple[Float[Array, "N L D"], KeyValue]:
        """One block over tokens that lie in the cache from position ``start`` on; the cache comes back with them."""
        new = self.attention.keys(x_NLD)
        key, value = (
            jax.lax.dynamic_update_slice_in_dim(c, x, start, 2)
            for c, x in zip(cache, new, strict=True)
        )
        x = self.cross(self.attention(x_NLD, (key, value), mask), picture, None)
        h = self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))
        return constrain(self.norm(x + h), "batch"), (key, value)


class CaptionDecoder(nnx.Module):
    """Embeddings, blocks one by one (a loop over tokens then slices no stacked weights), tied head."""

    def __init__(self, cfg: CaptionTextConfig, vision_width: int, *, dtype: Any, rngs: nnx.Rngs):
        self.cfg, self.dtype = cfg, dtype
        self.words, self.positions = (
            nnx.Embed(
                rows,
                cfg.width,
                dtype=dtype,
                rngs=rngs,
                embedding_init=nnx.initializers.normal(0.02),
                embedding_metadata={"logical": (axis, "embed")},
            )
            for rows, axis in ((cfg.vocab_size, None), (cfg.max_length, "positions"))
        )
        self.norm = layer_norm(cfg.width, cfg.norm_eps, dtype, rngs)
        self.layers = nnx.List(
            [CaptionBlock(cfg, vision_width, dtype, rngs) for _ in range(cfg.depth)]
        )
        self.head = linear(cfg.width, cfg.width, ("embed", None), bias=True, dtype=dtype, rngs=rngs)
        self.head_norm = layer_norm(cfg.width, cfg.norm_eps, dtype, rngs)
        self.bias = nnx.Param(jnp.zeros(cfg.vocab_size), logical=(None,))

    def look(self, states_NSD: Float[Array, "N S D"]) -> tuple[KeyValue, ...]:
        """Keys and values of a picture's states, per layer; computed once per caption."""
        return tuple(layer.cross.keys(states_NSD) for layer in self.layers)

    def empty_cache(self, rows: int, length: int) -> tuple[KeyValue, ...]:
        """A cache of zeros for ``length`` tokens, per layer."""
        shape = (rows, self.cfg.heads, length, self.cfg.width // self.cfg.heads)
        zeros = constrain(jnp.zeros(shape, self.dtype), "batch")
        return ((zeros, zeros),) * self.cfg.depth

    def __call__(
        self,
        tokens: Int[Array, "N L"],
        picture: tuple[KeyValue, ...],
        cache: tuple[KeyValue, ...],
        start: Any,
    ) -> tuple[Float[Array, "N L V"], tuple[KeyValue, ...]]:
        """Logits of the token after each of ``tokens``, which lie at positions ``start`` and on; and the new cache.

        Args:
          tokens: ids.
          picture: from ``look``.
          cache: of everything before, at least ``start + L`` long.
          start: position of the first token; may be traced.
        """
        at = start + jnp.arange(tokens.shape[1])
        mask = (jnp.arange(cache[0][0].shape[2]) <= at[:, None])[None]
        x = constrain(self.norm(self.words(tokens) + self.positions(at)), "batch")
        updated = []
        for layer, seen, own in zip(self.layers, picture, cache, strict=True):
            x, own = layer(x, seen, own, start, mask)
            updated.append(own)
        h = self.head_norm(jax.nn.gelu(self.head(x), approximate=False))
        logits = self.words.attend(h) + self.bias[...]
        return logits.astype(jnp.float32), tuple(updated)
