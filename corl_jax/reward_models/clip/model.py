"""CLIP: pictures and texts as points of one space, whose angle says how well they fit.

In: normalised pictures, token ids. Out: features of both. Pre-norm blocks, a class token, a causal text tower (Radford
et al. 2021, section 2.4). Compatible with ``CLIPModel`` of transformers and with open_clip's vision transformers.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from corl_jax.core.sharding import all_gather_fsdp, constrain
from corl_jax.models.attention_kernels import attend
from corl_jax.models.janus.vision_tower import layer_norm
from corl_jax.models.layers import linear, scan_layers, stack

FLOAT32 = jnp.float32


def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """``x sigmoid(1.702 x)``, the activation of OpenAI's weights."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: Mapping[str, Callable[[Any], Any]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "quick_gelu": quick_gelu,
}
"""Activations that released weights were trained with, by the name they have in ``config.json``."""


@dataclasses.dataclass(frozen=True)
class TowerConfig:
    """Sizes of one stack of blocks; ``activation`` is one of ``ACTIVATIONS``."""

    width: int
    depth: int
    heads: int
    mlp_dim: int
    activation: str = "gelu"
    norm_eps: float = 1e-5


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """Sizes of both towers.

    Attributes:
      image, text: the two towers.
      image_size, patch_size: in pixels.
      vocab_size, context: token ids, and the most of them in one text.
      features: width of the space that both share.
      end_id: the token whose first position gives a text's features; None for the position of the largest id, which is
        what open_clip does and transformers for weights whose config says ``eos_token_id: 2``.
    """

    image: TowerConfig
    text: TowerConfig
    image_size: int
    patch_size: int
    vocab_size: int
    context: int
    features: int
    end_id: int | None = None

    @property
    def patches(self) -> int:
        """Patches of a picture, without the class token."""
        return (self.image_size // self.patch_size) ** 2


class ClipBlock(nnx.Module):
    """Pre-norm attention and an MLP of two layers, all with biases; ``axis`` is the logical name of the width."""

    def __init__(self, cfg: TowerConfig, axis: str, rngs: nnx.Rngs):
        make = functools.partial(linear, bias=True, dtype=FLOAT32, rngs=rngs)
        self.heads, self.activation = cfg.heads, cfg.activation
        self.norm1 = layer_norm(cfg.width, cfg.norm_eps, FLOAT32, rngs)
        self.q_proj, self.k_proj, self.v_proj = (
            make(cfg.width, cfg.width, (axis, "heads")) for _ in range(3)
        )
        self.o_proj = make(cfg.width, cfg.width, ("heads", axis))
        self.norm2 = layer_norm(cfg.width, cfg.norm_eps, FLOAT32, rngs)
        self.fc1 = make(cfg.width, cfg.mlp_dim, (axis, "mlp"))
        self.fc2 = make(cfg.mlp_dim, cfg.width, ("mlp", axis))

    def __call__(
        self, x_NLD: Float[Array, "N L D"], mask: Bool[Array, "1 L L"] | None
    ) -> Float[Array, "N L D"]:
        """One block; ``mask`` says what a position attends to, None everything."""
        h = self.norm1(x_NLD)
        heads = (*h.shape[:2], self.heads, h.shape[2] // self.heads)
        q, k, v = (proj(h).reshape(heads) for proj in (self.q_proj, self.k_proj, self.v_proj))
        x_NLD = x_NLD + self.o_proj(
            attend(q, k.swapaxes(1, 2), v.swapaxes(1, 2), mask).reshape(h.shape)
        )
        h = self.fc2(ACTIVATIONS[self.activation](self.fc1(self.norm2(x_NLD))))
        return constrain(x_NLD + h, "batch")


def table(rows: int, width: int, axes: tuple[str, str], rngs: nnx.Rngs) -> nnx.Param:
    """Learned rows: positions or token embeddings."""
    return nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (rows, width)), logical=axes)


class ImageTower(nnx.Module):
    """Patches and a class token through the blocks; the class token's last state, projected."""

    def __init__(self, cfg: ClipConfig, rngs: nnx.Rngs):
        width, eps = cfg.image.width, cfg.image.norm_eps
        self.cfg = cfg.image
        self.patch_embed = nnx.Conv(
            3,
            width,
            (cfg.patch_size, cfg.patch_size),
            strides=cfg.patch_size,
            padding="VALID",
            use_bias=False,
            rngs=rngs,
            kernel_metadata={"logical": (None, None, None, "vision")},
        )
        self.class_token = nnx.Param(
            nnx.initializers.normal(0.02)(rngs.params(), (width,)), logical=("vision",)
        )
        self.position = table(cfg.patches + 1, width, ("positions", "vision"), rngs)
        self.norm_pre = layer_norm(width, eps, FLOAT32, rngs)
        self.layers = stack(
            lambda streams: ClipBlock(cfg.image, "vision", streams), cfg.image.depth, rngs
        )
        self.norm_post = layer_norm(width, eps, FLOAT32, rngs)
        self.project = linear(
            width, cfg.features, ("vision", None), bias=False, dtype=FLOAT32, rngs=rngs
        )

    def __call__(self, pictures: Float[Array, "N H W 3"]) -> Float[Array, "N F"]:
        """Features of pictures that are ``image_size`` square and normalised with CLIP's mean and deviation."""
        x = self.patch_embed(pictures)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        first = jnp.broadcast_to(self.class_token[...], (x.shape[0], 1, x.shape[-1]))
        x = self.norm_pre(jnp.concatenate([first, x], 1) + self.position[...])
        x = scan_layers(
            self.layers, lambda block, slice_: block(slice_[1], None), x, self.cfg.depth, FLOAT32
        )
        return self.project(self.norm_post(x[:, 0]))


class TextTower(nnx.Module):
    """Tokens through causal blocks; the state at the end token, projected."""

    def __init__(self, cfg: ClipConfig, rngs: nnx.Rngs):
        width = cfg.text.width
        self.cfg, self.end_id = cfg.text, cfg.end_id
        self.token = table(cfg.vocab_size, width, ("vocab", "embed"), rngs)
        self.position = table(cfg.context, width, ("positions", "embed"), rngs)
        self.layers = stack(
            lambda streams: ClipBlock(cfg.text, "embed", streams), cfg.text.depth, rngs
        )
        self.norm = layer_norm(width, cfg.text.norm_eps, FLOAT32, rngs)
        self.project = linear(
            width, cfg.features, ("embed", None), bias=False, dtype=FLOAT32, rngs=rngs
        )

    def __call__(self, ids: Int[Array, "N L"]) -> Float[Array, "N F"]:
        """Features of texts; what follows the end token does not matter, since nothing before it sees it."""
        length = ids.shape[1]
        causal = jnp.tril(jnp.ones((1, length, length), bool))
        token = all_gather_fsdp(self.token[...], ("vocab", "embed"))
        x = constrain(token[ids] + self.position[...][:length], "batch")
        x = scan_layers(
            self.layers, lambda block, slice_: block(slice_[1], causal), x, self.cfg.depth, FLOAT32
        )
        end = jnp.argmax(ids if self.end_id is None else ids == self.end_id, axis=1)
        return self.project(self.norm(x[jnp.arange(len(ids)), end]))


class Clip(nnx.Module):
    """Both towers, in float32."""

    def __init__(self, cfg: ClipConfig, rngs: nnx.Rngs):
        self.image, self.text = ImageTower(cfg, rngs), TextTower(cfg, rngs)

    def cosine(
        self, pictures: Float[Array, "N H W 3"], ids: Int[Array, "N L"]
    ) -> Float[Array, "N"]:
        """Cosine of the angle between each picture and the text of its row, in [-1, 1]."""
        image, text = (
            x / jnp.linalg.norm(x, axis=-1, keepdims=True)
            for x in (self.image(pictures), self.text(ids))
        )
        return jnp.sum(image * text, axis=-1)
