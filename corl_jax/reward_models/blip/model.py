"""BLIP's captioner: images to the token ids of their captions.

In: uint8 images of the model's size ``[N, H, W, 3]``. Out: ids ``[N, T]``.

Compatible with ``BlipForConditionalGeneration`` (transformers 5); Li et al. 2022, "BLIP". The
vision tower consists of the blocks of ``models/janus/vision_tower.py``, with a class token in
front; the text decoder attends to all of its states.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, UInt8

from corl_jax.core.sharding import constrain
from corl_jax.models.janus.config import VisionConfig
from corl_jax.models.janus.vision_tower import VisionBlock, layer_norm
from corl_jax.models.layers import gather_layer_params, scan_layers, stack
from corl_jax.reward_models.blip.text_decoder import BlipTextConfig, BlipTextDecoder, KeyValue

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of the colours of images in [0, 1], those of CLIP."""


@dataclasses.dataclass(frozen=True)
class BlipConfig:
    """Sizes of vision tower and text decoder; the defaults are those of BLIP base."""

    vision: VisionConfig = VisionConfig(width=768, depth=12, heads=12, mlp_dim=3072, norm_eps=1e-5)
    text: BlipTextConfig = BlipTextConfig()


class BlipVisionTower(nnx.Module):
    """ViT: a class token and patch embeddings, learned positions, blocks, final norm."""

    def __init__(self, cfg: VisionConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.cfg = cfg
        self.dtype = dtype

        # Embeddings of the patches, of the class token, and of their positions.
        self.patch_embed = nnx.Conv(
            3,
            cfg.width,
            (cfg.patch_size, cfg.patch_size),
            strides=cfg.patch_size,
            padding="VALID",
            dtype=dtype,
            rngs=rngs,
            kernel_metadata={"logical": (None, None, None, "vision")},
            bias_metadata={"logical": ("vision",)},
        )

        normal = nnx.initializers.normal(0.02)
        self.token = nnx.Param(normal(rngs.params(), (1, cfg.width)), logical=(None, "vision"))
        self.position = nnx.Param(
            normal(rngs.params(), (1 + cfg.tokens, cfg.width)), logical=("positions", "vision")
        )

        # All blocks as one, with a leading axis of layers.
        self.layers = stack(
            lambda streams: VisionBlock(cfg, "einsum", dtype, streams), cfg.depth, rngs
        )
        self.norm = layer_norm(cfg.width, cfg.norm_eps, dtype, rngs)

    def __call__(self, images: Float[Array, "N H W 3"]) -> Float[Array, "N S D"]:
        """Normalized images to the states of the class token and of every patch."""
        # Patches [N, h, w, D] to a sequence [N, S, D] with the class token in front.
        x = self.patch_embed(images)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        class_token = self.token[...].astype(x.dtype)
        class_token = jnp.broadcast_to(class_token, (x.shape[0], 1, x.shape[-1]))
        x = jnp.concatenate([class_token, x], 1) + self.position[...].astype(x.dtype)

        x = scan_layers(
            self.layers,
            lambda block, index_and_x: block(index_and_x[1]),
            constrain(x, "batch"),
            self.cfg.depth,
            self.dtype,
        )
        return jnp.asarray(self.norm(x))


class GreedyState(NamedTuple):
    """What the decoding loop carries from token to token.

    Attributes:
      step: number of tokens written.
      tokens: the captions so far, padded.
      last_token: the token that the next step reads.
      ended: rows whose caption has ended.
      cache: keys and values of the tokens so far, per layer.
    """

    step: Int[Array, ""] | int
    tokens: Int[Array, "N T"]
    last_token: Int[Array, "N"]
    ended: Bool[Array, "N"]
    cache: tuple[KeyValue, ...]


class BlipModel(nnx.Module):
    """Vision tower and text decoder; parameters and arithmetic in ``dtype``."""

    def __init__(self, cfg: BlipConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.cfg = cfg
        self.vision = BlipVisionTower(cfg.vision, dtype=dtype, rngs=rngs)
        self.text = BlipTextDecoder(cfg.text, cfg.vision.width, dtype=dtype, rngs=rngs)

    def __call__(
        self, images: UInt8[Array, "N H W 3"], tokens: Int[Array, "N L"]
    ) -> Float[Array, "N L V"]:
        """Logits of the token after each of ``tokens`` (teacher forcing)."""
        # The cache is just long enough for these tokens; it starts empty.
        image_kv = self.text.image_keys_values(self.vision(normalize(images)))
        return self.text(tokens, image_kv, self.text.empty_cache(*tokens.shape), 0)[0]

    def greedy(self, images: UInt8[Array, "N H W 3"], length: int) -> Int[Array, "N T"]:
        """The most likely token at every step, until all captions have ended.

        Args:
          images: of the model's size.
          length: tokens at most (``T``), no more than ``cfg.text.max_length``.

        Returns:
          ids without the start id; a caption that ends before ``T`` has the end id, then padding.
        """
        cfg = self.cfg.text
        rows = images.shape[0]

        # Computed once, before the loop: gathered decoder weights, and the image's keys and values.
        graphdef, parameters = nnx.split(self.text)
        text = nnx.merge(graphdef, gather_layer_params(parameters, self.text.dtype))
        image_kv = text.image_keys_values(self.vision(normalize(images)))

        def is_unfinished(state: GreedyState) -> Bool[Array, ""]:
            return (state.step < length) & ~state.ended.all()

        def decode_step(state: GreedyState) -> GreedyState:
            logits, cache = text(state.last_token[:, None], image_kv, state.cache, state.step)
            # Rows that have ended are padded.
            token = jnp.where(state.ended, cfg.pad_id, logits[:, 0].argmax(-1).astype(jnp.int32))
            tokens = jax.lax.dynamic_update_slice_in_dim(
                state.tokens, token[:, None], state.step, 1
            )
            return GreedyState(
                step=state.step + 1,
                tokens=tokens,
                last_token=token,
                ended=state.ended | (token == cfg.sep_id),
                cache=cache,
            )

        # Every caption starts with the start id, which is not part of the result.
        start = GreedyState(
            step=0,
            tokens=jnp.full((rows, length), cfg.pad_id, jnp.int32),
            last_token=jnp.full(rows, cfg.bos_id, jnp.int32),
            ended=jnp.zeros(rows, bool),
            cache=text.empty_cache(rows, length),
        )
        return jax.lax.while_loop(is_unfinished, decode_step, start).tokens


def normalize(images: UInt8[Array, "N H W 3"]) -> Float[Array, "N H W 3"]:
    """uint8 images to float32 with mean 0 and standard deviation 1, by CLIP's colour statistics."""
    return (images.astype(jnp.float32) / 255 - jnp.asarray(MEAN)) / jnp.asarray(STD)
