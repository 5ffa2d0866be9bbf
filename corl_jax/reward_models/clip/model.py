"""CLIP: images and texts as points of one space, whose angle tells how well they fit.

In: normalized images ``[N, H, W, 3]``, token ids ``[N, L]``. Out: features of both ``[N, F]``, or
their cosines ``[N]``.

Pre-norm blocks, a class token for images, a causal text tower (Radford et al. 2021, section 2.4).
Compatible with ``CLIPModel`` of transformers and with the vision transformers of open_clip.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

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


ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "quick_gelu": quick_gelu,
}
"""Activations that released weights were trained with, by their name in ``config.json``."""


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
      image: the image tower.
      text: the text tower.
      image_size: side of an image, in pixels.
      patch_size: side of a patch, in pixels.
      vocab_size: number of token ids.
      context: tokens of a text at most.
      features: width of the space that images and texts share.
      end_id: the token whose first position gives a text's features. None for the position of the
        largest id; open_clip does this, and transformers for weights whose config has
        ``eos_token_id: 2``.
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
        """Patches of an image, without the class token."""
        return (self.image_size // self.patch_size) ** 2


class ClipBlock(nnx.Module):
    """Pre-norm attention and an MLP of two layers, all with biases."""

    def __init__(self, cfg: TowerConfig, axis: str, rngs: nnx.Rngs):
        """``axis`` is the logical axis of the width."""
        make_linear = functools.partial(linear, bias=True, dtype=FLOAT32, rngs=rngs)
        self.heads = cfg.heads
        self.activation = cfg.activation

        # Attention.
        self.norm1 = layer_norm(cfg.width, cfg.norm_eps, FLOAT32, rngs)
        self.q_proj, self.k_proj, self.v_proj = (
            make_linear(cfg.width, cfg.width, (axis, "heads")) for _ in range(3)
        )
        self.o_proj = make_linear(cfg.width, cfg.width, ("heads", axis))

        # MLP.
        self.norm2 = layer_norm(cfg.width, cfg.norm_eps, FLOAT32, rngs)
        self.fc1 = make_linear(cfg.width, cfg.mlp_dim, (axis, "mlp"))
        self.fc2 = make_linear(cfg.mlp_dim, cfg.width, ("mlp", axis))

    def __call__(
        self, x_NLD: Float[Array, "N L D"], mask: Bool[Array, "1 L L"] | None
    ) -> Float[Array, "N L D"]:
        """One block; a position attends to others where ``mask`` is true (None: everywhere)."""
        # Attention; ``attend`` has the heads of keys and values before the positions.
        h = self.norm1(x_NLD)
        heads_shape = (*h.shape[:2], self.heads, h.shape[2] // self.heads)
        q, k, v = (proj(h).reshape(heads_shape) for proj in (self.q_proj, self.k_proj, self.v_proj))
        attended = attend(q, k.swapaxes(1, 2), v.swapaxes(1, 2), mask)
        x_NLD = x_NLD + self.o_proj(attended.reshape(h.shape))

        # MLP.
        activation = ACTIVATIONS[self.activation]
        h = self.fc2(activation(self.fc1(self.norm2(x_NLD))))
        return constrain(x_NLD + h, "batch")


def embedding_table(rows: int, width: int, axes: tuple[str, str], rngs: nnx.Rngs) -> nnx.Param:
    """Learned embeddings of positions or tokens."""
    return nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (rows, width)), logical=axes)


class ImageTower(nnx.Module):
    """A class token and patches through blocks; the class token's last state, projected."""

    def __init__(self, cfg: ClipConfig, rngs: nnx.Rngs):
        width, eps = cfg.image.width, cfg.image.norm_eps
        self.cfg = cfg.image

        # Embeddings of the patches, of the class token, and of their positions.
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
        self.position = embedding_table(cfg.patches + 1, width, ("positions", "vision"), rngs)

        # Norms before and after the blocks, and the projection to the shared space.
        self.norm_pre = layer_norm(width, eps, FLOAT32, rngs)
        self.layers = stack(
            lambda streams: ClipBlock(cfg.image, "vision", streams), cfg.image.depth, rngs
        )
        self.norm_post = layer_norm(width, eps, FLOAT32, rngs)
        self.project = linear(
            width, cfg.features, ("vision", None), bias=False, dtype=FLOAT32, rngs=rngs
        )

    def __call__(self, images: Float[Array, "N H W 3"]) -> Float[Array, "N F"]:
        """Features of images ``image_size`` square, normalized by CLIP's colour statistics."""
        # Patches [N, h, w, D] to a sequence [N, S, D] with the class token in front.
        x = self.patch_embed(images)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        class_token = jnp.broadcast_to(self.class_token[...], (x.shape[0], 1, x.shape[-1]))
        x = self.norm_pre(jnp.concatenate([class_token, x], 1) + self.position[...])

        # Every position attends to every other.
        x = scan_layers(
            self.layers,
            lambda block, index_and_x: block(index_and_x[1], None),
            x,
            self.cfg.depth,
            FLOAT32,
        )

        # The state of the class token stands for the image.
        return self.project(self.norm_post(x[:, 0]))


class TextTower(nnx.Module):
    """Tokens through causal blocks; the state at the end token, projected."""

    def __init__(self, cfg: ClipConfig, rngs: nnx.Rngs):
        width = cfg.text.width
        self.cfg = cfg.text
        self.end_id = cfg.end_id

        # Embeddings of tokens and positions.
        self.token = embedding_table(cfg.vocab_size, width, ("vocab", "embed"), rngs)
        self.position = embedding_table(cfg.context, width, ("positions", "embed"), rngs)

        # Blocks, the norm after them, and the projection to the shared space.
        self.layers = stack(
            lambda streams: ClipBlock(cfg.text, "embed", streams), cfg.text.depth, rngs
        )
        self.norm = layer_norm(width, cfg.text.norm_eps, FLOAT32, rngs)
        self.project = linear(
            width, cfg.features, ("embed", None), bias=False, dtype=FLOAT32, rngs=rngs
        )

    def __call__(self, ids: Int[Array, "N L"]) -> Float[Array, "N F"]:
        """Features of texts.

        Tokens after the end token have no effect, since attention is causal.
        """
        length = ids.shape[1]

        causal_mask = jnp.tril(jnp.ones((1, length, length), bool))

        # The table is gathered over the batch axes, since every device looks up rows of its batch.
        token_table = all_gather_fsdp(self.token[...], ("vocab", "embed"))
        x = constrain(token_table[ids] + self.position[...][:length], "batch")

        x = scan_layers(
            self.layers,
            lambda block, index_and_x: block(index_and_x[1], causal_mask),
            x,
            self.cfg.depth,
            FLOAT32,
        )

        # The first position of the end token, or of the largest id; see ``ClipConfig.end_id``.
        end_position = jnp.argmax(ids if self.end_id is None else ids == self.end_id, axis=1)
        return self.project(self.norm(x[jnp.arange(len(ids)), end_position]))


class Clip(nnx.Module):
    """Both towers, in float32."""

    def __init__(self, cfg: ClipConfig, rngs: nnx.Rngs):
        self.image = ImageTower(cfg, rngs)
        self.text = TextTower(cfg, rngs)

    def cosine(self, images: Float[Array, "N H W 3"], ids: Int[Array, "N L"]) -> Float[Array, "N"]:
        """Cosine of the angle between each image and the text of its row, in [-1, 1]."""
        # Both to unit length.
        image, text = (
            x / jnp.linalg.norm(x, axis=-1, keepdims=True)
            for x in (self.image(images), self.text(ids))
        )
        return jnp.sum(image * text, axis=-1)
