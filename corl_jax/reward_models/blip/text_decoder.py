"""The text decoder of BLIP, which writes a caption while it attends to an image.

In: token ids and the states of an image. Out: logits.

Post-norm like BERT, with causal self-attention, cross-attention to the image, and a head that
shares its weights with the word embeddings. Compatible with ``BlipTextLMHeadModel`` (transformers
5); Li et al. 2022, "BLIP", section 3.1.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from corl_jax.core.sharding import constrain
from corl_jax.models.attention_kernels import attend
from corl_jax.models.janus.vision_tower import layer_norm
from corl_jax.models.layers import linear

KeyValue = tuple[Float[Array, "N K S C"], Float[Array, "N K S C"]]
"""Keys and values of one layer, with the axis of heads before the axis of positions."""


@dataclasses.dataclass(frozen=True)
class BlipTextConfig:
    """Sizes of the decoder; a caption starts after ``bos_id`` and ends with ``sep_id``."""

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
    """Attention with biases, the residual sum, and a norm after it."""

    def __init__(
        self,
        cfg: BlipTextConfig,
        kv_source: tuple[int, str],
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """``kv_source``: width and logical axis of the states that keys and values come from."""
        self.heads = cfg.heads

        # Queries come from the text; keys and values from the text or from the image.
        kv_width, kv_axis = kv_source
        self.q_proj = linear(
            cfg.width, cfg.width, ("embed", "heads"), bias=True, dtype=dtype, rngs=rngs
        )
        self.k_proj = linear(
            kv_width, cfg.width, (kv_axis, "heads"), bias=True, dtype=dtype, rngs=rngs
        )
        self.v_proj = linear(
            kv_width, cfg.width, (kv_axis, "heads"), bias=True, dtype=dtype, rngs=rngs
        )
        self.o_proj = linear(
            cfg.width, cfg.width, ("heads", "embed"), bias=True, dtype=dtype, rngs=rngs
        )

        # Applied after the residual sum.
        self.norm = layer_norm(cfg.width, cfg.norm_eps, dtype, rngs)

    def keys_values(self, states_NSD: Float[Array, "N S D"]) -> KeyValue:
        """Keys and values of ``states_NSD``, ``[N, H, S, C]`` each."""
        # The axis of heads goes before the axis of positions.
        key, value = (
            self._split_heads(proj(states_NSD)).swapaxes(1, 2)
            for proj in (self.k_proj, self.v_proj)
        )
        return constrain(key, "batch"), constrain(value, "batch")

    def __call__(
        self,
        x_NLD: Float[Array, "N L D"],
        key_value: KeyValue,
        mask: Bool[Array, "1 L S"] | None,
    ) -> Float[Array, "N L D"]:
        """``x_NLD`` after attention to ``key_value`` where ``mask`` is true (None: everywhere)."""
        attended = attend(self._split_heads(self.q_proj(x_NLD)), *key_value, mask)
        return self.norm(x_NLD + self.o_proj(attended.reshape(x_NLD.shape)))

    def _split_heads(self, x: Float[Array, "N L D"]) -> Float[Array, "N L H C"]:
        return x.reshape(*x.shape[:-1], self.heads, -1)


class BlipTextBlock(nnx.Module):
    """Causal self-attention, cross-attention to the image, a GELU MLP; a norm after each."""

    def __init__(self, cfg: BlipTextConfig, vision_width: int, dtype: DTypeLike, rngs: nnx.Rngs):
        # Each attention has its own norm.
        self.attention = Attention(cfg, (cfg.width, "embed"), dtype, rngs)
        self.cross = Attention(cfg, (vision_width, "vision"), dtype, rngs)

        # MLP.
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
        image_kv: KeyValue,
        cache: KeyValue,
        start: int | jax.Array,
        mask: Bool[Array, "1 L S"],
    ) -> tuple[Float[Array, "N L D"], KeyValue]:
        """One block over tokens at positions ``start`` and on.

        Args:
          x_NLD: states of those tokens.
          image_kv: keys and values of the image.
          cache: keys and values of the tokens before.
          start: position of the first token.
          mask: the cached positions that each token attends to.

        Returns:
          states, and the cache with these tokens in it.
        """
        # Self-attention reads the new tokens from the cache, like the tokens before them.
        new_kv = self.attention.keys_values(x_NLD)
        key, value = (
            jax.lax.dynamic_update_slice_in_dim(cached, new, start, 2)
            for cached, new in zip(cache, new_kv, strict=True)
        )

        # All of the image is visible to every token.
        x = self.cross(self.attention(x_NLD, (key, value), mask), image_kv, None)
        hidden = self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))
        return constrain(self.norm(x + hidden), "batch"), (key, value)


class BlipTextDecoder(nnx.Module):
    """Embeddings, blocks, and a head with the weights of the word embeddings."""

    def __init__(self, cfg: BlipTextConfig, vision_width: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.cfg = cfg
        self.dtype = dtype

        # Vocabularies seldom divide over devices, so words have no logical axis for their rows.
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

        # A list and not a stack: the loop over tokens then never slices stacked weights.
        self.layers = nnx.List(
            [BlipTextBlock(cfg, vision_width, dtype, rngs) for _ in range(cfg.depth)]
        )

        # The head: a layer of its own, then the word embeddings and a bias.
        self.head = linear(cfg.width, cfg.width, ("embed", None), bias=True, dtype=dtype, rngs=rngs)
        self.head_norm = layer_norm(cfg.width, cfg.norm_eps, dtype, rngs)
        self.bias = nnx.Param(jnp.zeros(cfg.vocab_size), logical=(None,))

    def image_keys_values(self, states_NSD: Float[Array, "N S D"]) -> tuple[KeyValue, ...]:
        """Keys and values of an image's states, per layer; computed once per caption."""
        return tuple(layer.cross.keys_values(states_NSD) for layer in self.layers)

    def empty_cache(self, rows: int, length: int) -> tuple[KeyValue, ...]:
        """A cache of zeros for ``length`` tokens, per layer."""
        shape = (rows, self.cfg.heads, length, self.cfg.width // self.cfg.heads)
        zeros = constrain(jnp.zeros(shape, self.dtype), "batch")
        return ((zeros, zeros),) * self.cfg.depth

    def __call__(
        self,
        tokens: Int[Array, "N L"],
        image_kv: tuple[KeyValue, ...],
        cache: tuple[KeyValue, ...],
        start: int | jax.Array,
    ) -> tuple[Float[Array, "N L V"], tuple[KeyValue, ...]]:
        """Logits of the token after each of ``tokens``, and the cache with these tokens in it.

        Args:
          tokens: ids, at positions ``start`` and on.
          image_kv: from ``image_keys_values``.
          cache: keys and values of the tokens before, at least ``start + L`` long.
          start: position of the first token; may be traced.
        """
        # Causal: a token attends to the cached positions up to its own.
        positions = start + jnp.arange(tokens.shape[1])
        cache_length = cache[0][0].shape[2]
        mask = (jnp.arange(cache_length) <= positions[:, None])[None]

        # Embeddings and layers; each layer has its own cache.
        x = constrain(self.norm(self.words(tokens) + self.positions(positions)), "batch")
        new_cache = []
        for layer, layer_image_kv, layer_cache in zip(self.layers, image_kv, cache, strict=True):
            x, layer_cache = layer(x, layer_image_kv, layer_cache, start, mask)
            new_cache.append(layer_cache)

        # Logits in float32 over the words.
        hidden = self.head_norm(jax.nn.gelu(self.head(x), approximate=False))
        logits = self.words.attend(hidden) + self.bias[...]
        return logits.astype(jnp.float32), tuple(new_cache)
