"""BLIP's captioner: pictures to token ids. In: uint8 pictures of the model's size; out: ids of their captions.

Compatible with ``BlipForConditionalGeneration`` (transformers 5); Li et al. 2022, "BLIP". The tower's blocks are those
of ``models/janus/vision_tower.py``; a class token comes first, and all states feed the decoder.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from corl_jax.core.sharding import constrain
from corl_jax.models.janus.config import VisionConfig
from corl_jax.models.janus.vision_tower import VisionBlock, layer_norm
from corl_jax.models.layers import gather_layer_params, scan_layers, stack
from corl_jax.reward_models.blip.text_decoder import CaptionDecoder, CaptionTextConfig

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of the colours of pictures in [0, 1], as CLIP has them."""


@dataclasses.dataclass(frozen=True)
class CaptionerConfig:
    """Sizes of both parts; the defaults are those of BLIP base."""

    vision: VisionConfig = VisionConfig(width=768, depth=12, heads=12, mlp_dim=3072, norm_eps=1e-5)
    text: CaptionTextConfig = CaptionTextConfig()


class CaptionTower(nnx.Module):
    """ViT: patch embedding behind a class token, learned positions, blocks, final norm."""

    def __init__(self, cfg: VisionConfig, *, dtype: Any, rngs: nnx.Rngs):
        self.cfg, self.dtype = cfg, dtype
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
        self.layers = stack(
            lambda streams: VisionBlock(cfg, "einsum", dtype, streams), cfg.depth, rngs
        )
        self.norm = layer_norm(cfg.width, cfg.norm_eps, dtype, rngs)

    def __call__(self, images: Float[Array, "N H W 3"]) -> Float[Array, "N S D"]:
        """Pictures with CLIP's mean and deviation taken out, to the states of the class token and of every patch."""
        x = self.patch_embed(images)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        token = jnp.broadcast_to(self.token[...].astype(x.dtype), (x.shape[0], 1, x.shape[-1]))
        x = constrain(jnp.concatenate([token, x], 1) + self.position[...].astype(x.dtype), "batch")
        x = scan_layers(
            self.layers, lambda block, slice_: block(slice_[1]), x, self.cfg.depth, self.dtype
        )
        return jnp.asarray(self.norm(x))


class CaptionNet(nnx.Module):
    """Tower and decoder; parameters and arithmetic in ``dtype``."""

    def __init__(self, cfg: CaptionerConfig, *, dtype: Any = jnp.float32, rngs: nnx.Rngs):
        self.cfg = cfg
        self.vision = CaptionTower(cfg.vision, dtype=dtype, rngs=rngs)
        self.text = CaptionDecoder(cfg.text, cfg.vision.width, dtype=dtype, rngs=rngs)

    def __call__(
        self, pictures: UInt8[Array, "N H W 3"], tokens: Int[Array, "N L"]
    ) -> Float[Array, "N L V"]:
        """Logits of the token after each of ``tokens``, with all of them given (teacher forcing)."""
        seen = self.text.look(self.vision(normalise(pictures)))
        return self.text(tokens, seen, self.text.empty_cache(*tokens.shape), 0)[0]

    def greedy(self, pictures: UInt8[Array, "N H W 3"], length: int) -> Int[Array, "N T"]:
        """The likeliest token at every step, behind the start id; done when every row has ended.

        The picture's keys and values are computed once, and the decoder's weights gathered once, before the loop.

        Args:
          pictures: of the model's size.
          length: tokens at most (``T``), no more than ``cfg.text.max_length``.

        Returns:
          ids without the start id; the end id and then padding where a row ends before ``T``.
        """
        cfg, rows = self.cfg.text, pictures.shape[0]
        graphdef, parameters = nnx.split(self.text)
        text = nnx.merge(graphdef, gather_layer_params(parameters, self.text.dtype))
        seen = text.look(self.vision(normalise(pictures)))

        def going(carry: Any) -> Any:
            step, _, _, ended, _ = carry
            return (step < length) & ~ended.all()

        def turn(carry: Any) -> Any:
            step, written, last, ended, cache = carry
            logits, cache = text(last[:, None], seen, cache, step)
            new = jnp.where(ended, cfg.pad_id, logits[:, 0].argmax(-1).astype(jnp.int32))
            written = jax.lax.dynamic_update_slice_in_dim(written, new[:, None], step, 1)
            return step + 1, written, new, ended | (new == cfg.sep_id), cache

        blank = jnp.full((rows, length), cfg.pad_id, jnp.int32)
        first = jnp.full(rows, cfg.bos_id, jnp.int32)
        start = (0, blank, first, jnp.zeros(rows, bool), text.empty_cache(rows, length))
        return jax.lax.while_loop(going, turn, start)[1]


def normalise(pictures: UInt8[Array, "N H W 3"]) -> Float[Array, "N H W 3"]:
    """uint8 pictures to float32, CLIP's mean and deviation of the three colours taken out."""
    return (pictures.astype(jnp.float32) / 255 - jnp.asarray(MEAN)) / jnp.asarray(STD)
