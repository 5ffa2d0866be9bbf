"""LPIPS: how different two pictures look, from the features of VGG16. In: pairs of pictures; out: one distance each.

Zhang et al. 2018, equation 1, with the weights of version 0.1. Compatible with torchmetrics
(``LearnedPerceptualImagePatchSimilarity``, ``net_type="vgg"``): the small constant stands inside the root of the norm.
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

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""The scaling layer: pictures in [-1, 1] to the range that VGG was trained with."""
EPSILON = 1e-8
"""Added to the squared norm of a pixel's features."""


@dataclasses.dataclass(frozen=True)
class PerceptualConfig:
    """Sizes of the trunk; the defaults are VGG16's.

    Attributes:
      channels: of each block; the picture halves between blocks.
      convolutions: in each block.
    """

    channels: tuple[int, ...] = (64, 128, 256, 512, 512)
    convolutions: tuple[int, ...] = (2, 2, 3, 3, 3)


class Vgg(nnx.Module):
    """Blocks of 3x3 convolutions with ReLU, halved by maximum in between."""

    def __init__(self, cfg: PerceptualConfig, rngs: nnx.Rngs):
        inputs = itertools.pairwise((3, *cfg.channels))
        self.blocks = nnx.List(
            nnx.List(conv(before if i == 0 else channels, channels, 3, rngs) for i in range(count))
            for (before, channels), count in zip(inputs, cfg.convolutions, strict=True)
        )

    def __call__(self, x: Float[Array, "N H W 3"]) -> list[Float[Array, "N h w C"]]:
        """What each block gives, after its last ReLU."""
        outputs = []
        for i, block in enumerate(self.blocks):
            x = nnx.max_pool(x, (2, 2), (2, 2)) if i else x
            for layer in block:
                x = constrain(jax.nn.relu(layer(x)), "batch")
            outputs.append(x)
        return outputs


class Perceptual(nnx.Module):
    """The trunk and one weight for each of its channels, none of them negative; all in float32."""

    def __init__(self, cfg: PerceptualConfig, rngs: nnx.Rngs):
        self.trunk = Vgg(cfg, rngs)
        self.weights = nnx.List(
            nnx.Param(jax.random.uniform(rngs.params(), (channels,)), logical=("channels_out",))
            for channels in cfg.channels
        )

    def __call__(
        self, pictures: Float[Array, "N H W 3"], others: Float[Array, "N H W 3"]
    ) -> Float[Array, "N"]:
        """The distance of each pair of pictures in [0, 1], never negative; of equal ones 0 up to rounding (1e-15)."""
        total = jnp.zeros(len(pictures), jnp.float32)
        for one, other, weight in zip(
            self._units(pictures), self._units(others), self.weights, strict=True
        ):
            total += jnp.mean(jnp.square(one - other) @ weight[...], axis=(1, 2))
        return total

    def _units(self, x: Float[Array, "N H W 3"]) -> list[Float[Array, "N h w C"]]:
        """Features of each block, of norm 1 at every pixel; the sides go one after the other, for half the memory."""
        x = constrain((2 * x - 1 - jnp.asarray(SHIFT)) / jnp.asarray(SCALE), "batch")
        return [
            f * jax.lax.rsqrt(EPSILON + jnp.sum(jnp.square(f), -1, keepdims=True))
            for f in self.trunk(x)
        ]
