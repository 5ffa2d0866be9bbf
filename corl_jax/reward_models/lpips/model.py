"""LPIPS: how different two images look, from the features of VGG16.

In: pairs of images ``[N, H, W, 3]``. Out: one distance per pair, ``[N]``.

Zhang et al. 2018, equation 1, with the weights of version 0.1. Compatible with torchmetrics
(``LearnedPerceptualImagePatchSimilarity``, ``net_type="vgg"``), which adds the small constant
inside the square root of the norm.
"""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from corl_jax.core.sharding import constrain
from corl_jax.models.janus.image_tokenizer import conv

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
"""The scaling layer of LPIPS: from images in [-1, 1] to the range that VGG16 was trained with."""
EPSILON = 1e-8
"""Added to the squared norm of a pixel's features, so that the norm is never zero."""


@dataclasses.dataclass(frozen=True)
class LpipsConfig:
    """Sizes of the VGG trunk; the defaults are those of VGG16.

    Attributes:
      channels: output channels of each block; the image halves between blocks.
      convolutions: number of convolutions in each block.
    """

    channels: tuple[int, ...] = (64, 128, 256, 512, 512)
    convolutions: tuple[int, ...] = (2, 2, 3, 3, 3)


class Vgg(nnx.Module):
    """Blocks of 3x3 convolutions with ReLU, and a max pooling between blocks."""

    def __init__(self, cfg: LpipsConfig, rngs: nnx.Rngs):
        # The first convolution of a block takes the channels of the block before, RGB at first.
        channel_pairs = itertools.pairwise((3, *cfg.channels))
        blocks = []
        for (inputs, outputs), count in zip(channel_pairs, cfg.convolutions, strict=True):
            blocks.append(
                nnx.List(conv(outputs if i else inputs, outputs, 3, rngs) for i in range(count))
            )
        self.blocks = nnx.List(blocks)

    def __call__(self, x: Float[Array, "N H W 3"]) -> list[Float[Array, "N h w C"]]:
        """The output of every block, after its last ReLU."""
        outputs = []
        for i, block in enumerate(self.blocks):
            # Every block but the first starts at half the size of the block before.
            x = nnx.max_pool(x, (2, 2), (2, 2)) if i else x
            for layer in block:
                x = constrain(jax.nn.relu(layer(x)), "batch")
            outputs.append(x)
        return outputs


class LpipsModel(nnx.Module):
    """The VGG trunk and one non-negative weight for each channel of its blocks, all in float32."""

    def __init__(self, cfg: LpipsConfig, rngs: nnx.Rngs):
        self.trunk = Vgg(cfg, rngs)
        # Random values in [0, 1): a weight of a distance is never negative.
        self.weights = nnx.List(
            nnx.Param(jax.random.uniform(rngs.params(), (channels,)), logical=("channels_out",))
            for channels in cfg.channels
        )

    def __call__(
        self, images: Float[Array, "N H W 3"], other_images: Float[Array, "N H W 3"]
    ) -> Float[Array, "N"]:
        """The distance of each pair of images in [0, 1].

        It is never negative; for equal images it is 0 up to rounding (1e-15).
        """
        # Equation 1: sum over blocks, mean over pixels, weighted sum over channels.
        total = jnp.zeros(len(images), jnp.float32)

        # One side after the other, since both at once would need twice the memory.
        features = self._unit_features(images)
        other_features = self._unit_features(other_images)
        for left, right, weight in zip(features, other_features, self.weights, strict=True):
            total += jnp.mean(jnp.square(left - right) @ weight[...], axis=(1, 2))
        return total

    def _unit_features(self, x: Float[Array, "N H W 3"]) -> list[Float[Array, "N h w C"]]:
        """Features of each block, scaled to norm 1 at every pixel."""
        # [0, 1] to [-1, 1], then to the range of VGG16's training images.
        x = constrain((2 * x - 1 - jnp.asarray(SHIFT)) / jnp.asarray(SCALE), "batch")
        return [
            features
            * jax.lax.rsqrt(EPSILON + jnp.sum(jnp.square(features), axis=-1, keepdims=True))
            for features in self.trunk(x)
        ]
