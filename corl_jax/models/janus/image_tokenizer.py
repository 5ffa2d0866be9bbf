"""The VQ image tokenizer: convolutional encoder and decoder around the codebook, channels last.

Images ``[N, H, W, 3]`` in [-1, 1] are encoded to image tokens ``[N, S]`` row by row, and tokens are
decoded to images (not clamped). Compatible with VQ-16 of Janus (``vq_model.py``); every module has
the name that it has in the transformers layout. ``C`` is the number of channels in this file.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from corl_jax.models.janus.codebook import Codebook
from corl_jax.models.janus.config import ImageTokenizerConfig

PARAM_PREFIX = "image_tokenizer/"
"""Paths of the image tokenizer's parameters in a complete model start with this."""

CONV_AXES = ("kernel", "kernel", "channels_in", "channels_out")
"""Logical axes of the kernel of a convolution."""


def conv(
    inputs: int,
    outputs: int,
    size: int,
    rngs: nnx.Rngs,
    strides: int = 1,
    padding: str | tuple[tuple[int, int], ...] = "SAME",
) -> nnx.Conv:
    """A square convolution with bias, in float32."""
    return nnx.Conv(
        inputs,
        outputs,
        (size, size),
        strides=strides,
        padding=padding,
        rngs=rngs,
        kernel_metadata={"logical": CONV_AXES},
        bias_metadata={"logical": ("channels_out",)},
    )


def group_norm(channels: int, rngs: nnx.Rngs) -> nnx.GroupNorm:
    """Group norm with 32 groups, eps 1e-6."""
    metadata = {"logical": ("channels_out",)}
    return nnx.GroupNorm(
        channels,
        num_groups=32,
        epsilon=1e-6,
        rngs=rngs,
        scale_metadata=metadata,
        bias_metadata=metadata,
    )


class ResBlock(nnx.Module):
    """Norm, swish and conv, two times, plus a shortcut (1x1 conv where the channels change)."""

    def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs):
        # Only the first convolution changes the number of channels.
        self.norm1, self.conv1 = group_norm(inputs, rngs), conv(inputs, outputs, 3, rngs)
        self.norm2, self.conv2 = group_norm(outputs, rngs), conv(outputs, outputs, 3, rngs)
        self.nin_shortcut = conv(inputs, outputs, 1, rngs) if inputs != outputs else None

    def __call__(self, x_NHWC: Float[Array, "N H W C"]) -> Float[Array, "N H W E"]:
        """``[N, H, W, inputs]`` to ``[N, H, W, outputs]``."""
        h_NHWC = self.conv1(jax.nn.silu(self.norm1(x_NHWC)))
        h_NHWC = self.conv2(jax.nn.silu(self.norm2(h_NHWC)))
        return h_NHWC + (x_NHWC if self.nin_shortcut is None else self.nin_shortcut(x_NHWC))


class AttnBlock(nnx.Module):
    """Residual single-head attention over all positions of an image."""

    def __init__(self, channels: int, rngs: nnx.Rngs):
        # Convolutions of size 1 are linear maps of each position.
        self.norm = group_norm(channels, rngs)
        self.q, self.k, self.v = (conv(channels, channels, 1, rngs) for _ in range(3))
        self.proj_out = conv(channels, channels, 1, rngs)

    def __call__(self, x_NHWC: Float[Array, "N H W C"]) -> Float[Array, "N H W C"]:
        """Returns the shape it was given."""
        rows, *_, channels = x_NHWC.shape
        h_NHWC = self.norm(x_NHWC)

        # The positions of an image become one axis: L of the queries, S of the keys.
        q_NLC, k_NSC, v_NSC = (
            projection(h_NHWC).reshape(rows, -1, channels)
            for projection in (self.q, self.k, self.v)
        )
        logits_NLS = jnp.einsum("NLC,NSC->NLS", q_NLC, k_NSC) * channels**-0.5
        weights_NLS = jax.nn.softmax(logits_NLS, -1)
        mixed_NLC = jnp.einsum("NLS,NSC->NLC", weights_NLS, v_NSC)
        return x_NHWC + self.proj_out(mixed_NLC.reshape(x_NHWC.shape))


class Downsample(nnx.Module):
    """Halves the size: pad right and bottom by one, then a strided convolution without padding."""

    def __init__(self, channels: int, rngs: nnx.Rngs):
        self.conv = conv(channels, channels, 3, rngs, strides=2, padding=((0, 1), (0, 1)))

    def __call__(self, x_NHWC: Float[Array, "N H W C"]) -> Float[Array, "N H/2 W/2 C"]:
        return self.conv(x_NHWC)


class Upsample(nnx.Module):
    """Doubles the size: nearest neighbour, then a convolution."""

    def __init__(self, channels: int, rngs: nnx.Rngs):
        self.conv = conv(channels, channels, 3, rngs)

    def __call__(self, x_NHWC: Float[Array, "N H W C"]) -> Float[Array, "N 2*H 2*W C"]:
        # Rows are repeated, then columns.
        return self.conv(jnp.repeat(jnp.repeat(x_NHWC, 2, 1), 2, 2))


class Level(nnx.Module):
    """Residual blocks of one resolution, then a change of resolution.

    Args:
      inputs, outputs: channels.
      blocks: number of residual blocks.
      attention: whether attention follows each of them.
      resize: what follows the blocks, or None for the last level.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        blocks: int,
        attention: bool,
        resize: Literal["down", "up"] | None,
        rngs: nnx.Rngs,
    ):
        # The first block changes the number of channels, the others keep it.
        self.block = nnx.List(
            ResBlock(inputs if i == 0 else outputs, outputs, rngs) for i in range(blocks)
        )
        self.attn = nnx.List(AttnBlock(outputs, rngs) for _ in range(blocks if attention else 0))
        self.downsample = Downsample(outputs, rngs) if resize == "down" else None
        self.upsample = Upsample(outputs, rngs) if resize == "up" else None

    def __call__(self, x_NHWC: Float[Array, "N H W C"]) -> Float[Array, "N H W C"]:
        for i, block in enumerate(self.block):
            x_NHWC = block(x_NHWC)
            if len(self.attn):
                x_NHWC = self.attn[i](x_NHWC)
        # At most one of the two exists.
        for resize in (self.downsample, self.upsample):
            x_NHWC = x_NHWC if resize is None else resize(x_NHWC)
        return x_NHWC


class Middle(nnx.Module):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, channels: int, rngs: nnx.Rngs):
        self.block_1, self.attn_1 = ResBlock(channels, channels, rngs), AttnBlock(channels, rngs)
        self.block_2 = ResBlock(channels, channels, rngs)

    def __call__(self, x_NHWC: Float[Array, "N H W C"]) -> Float[Array, "N H W C"]:
        return self.block_2(self.attn_1(self.block_1(x_NHWC)))


def encoder_widths(cfg: ImageTokenizerConfig) -> list[int]:
    """Channels of every encoder level; without residual blocks nothing changes the width."""
    return [cfg.base_channels * (m if cfg.res_blocks else 1) for m in cfg.channel_multipliers]


class Encoder(nnx.Module):
    """Images to latents.

    Every level but the last halves the size. Only the last has attention.
    """

    def __init__(self, cfg: ImageTokenizerConfig, rngs: nnx.Rngs):
        widths = encoder_widths(cfg)
        input_widths = [cfg.base_channels, *widths[:-1]]
        last = len(widths) - 1

        # From full resolution to the lowest.
        self.conv_in = conv(3, cfg.base_channels, 3, rngs)
        self.down = nnx.List(
            Level(inputs, outputs, cfg.res_blocks, i == last, None if i == last else "down", rngs)
            for i, (inputs, outputs) in enumerate(zip(input_widths, widths, strict=True))
        )
        self.mid = Middle(widths[-1], rngs)
        self.norm_out = group_norm(widths[-1], rngs)
        self.conv_out = conv(widths[-1], cfg.latent_channels, 3, rngs)

    def __call__(self, images_NHW3: Float[Array, "N H W 3"]) -> Float[Array, "N h w C"]:
        x_NHWC = self.conv_in(images_NHW3)
        for level in self.down:
            x_NHWC = level(x_NHWC)
        return self.conv_out(jax.nn.silu(self.norm_out(self.mid(x_NHWC))))


class Decoder(nnx.Module):
    """Latents to images; level 0 has the lowest resolution, and only it has attention.

    Every level has one residual block more than a level of the encoder.
    """

    def __init__(self, cfg: ImageTokenizerConfig, rngs: nnx.Rngs):
        widths = [cfg.base_channels * m for m in reversed(cfg.channel_multipliers)]
        input_widths = [widths[0], *widths[:-1]]
        last = len(widths) - 1

        # From the lowest resolution to the full one.
        self.conv_in = conv(cfg.latent_channels, widths[0], 3, rngs)
        self.mid = Middle(widths[0], rngs)
        self.up = nnx.List(
            Level(inputs, outputs, cfg.res_blocks + 1, i == 0, None if i == last else "up", rngs)
            for i, (inputs, outputs) in enumerate(zip(input_widths, widths, strict=True))
        )
        self.norm_out, self.conv_out = group_norm(widths[-1], rngs), conv(widths[-1], 3, 3, rngs)

    def __call__(self, latents_NhwC: Float[Array, "N h w C"]) -> Float[Array, "N H W 3"]:
        x_NHWC = self.mid(self.conv_in(latents_NhwC))
        for level in self.up:
            x_NHWC = level(x_NHWC)
        return self.conv_out(jax.nn.silu(self.norm_out(x_NHWC)))


class ImageTokenizer(nnx.Module):
    """Images to image tokens and back; always float32."""

    def __init__(self, cfg: ImageTokenizerConfig, *, rngs: nnx.Rngs):
        # The 1x1 convolutions map latents to the small vectors of the codebook and back.
        self.encoder = Encoder(cfg, rngs)
        self.quant_conv = conv(cfg.latent_channels, cfg.code_dim, 1, rngs)
        self.quantize = Codebook(cfg.codebook_size, cfg.code_dim, rngs=rngs)
        self.post_quant_conv = conv(cfg.code_dim, cfg.latent_channels, 1, rngs)
        self.decoder = Decoder(cfg, rngs)

    def latents(self, images: Float[Array, "N H W 3"]) -> Float[Array, "N h w Z"]:
        """Latents of images in [-1, 1], before they are quantized."""
        return self.quant_conv(self.encoder(images.astype(jnp.float32)))

    def encode(self, images: Float[Array, "N H W 3"]) -> Int[Array, "N S"]:
        """Image tokens of images in [-1, 1], row by row."""
        # The grid of latents is flattened row by row.
        return self.quantize.nearest(self.latents(images)).reshape(images.shape[0], -1)

    def code_vectors(self, tokens: Int[Array, "..."]) -> Float[Array, "... Z"]:
        """Vectors of norm one of image tokens."""
        return self.quantize.lookup(tokens)

    def decode_latents(self, z_NhwZ: Float[Array, "N h w Z"]) -> Float[Array, "N H W 3"]:
        """Images of quantized latents."""
        return self.decoder(self.post_quant_conv(z_NhwZ))

    def decode(self, tokens: Int[Array, "N S"]) -> Float[Array, "N H W 3"]:
        """Images of image tokens; in about [-1, 1], not clamped."""
        # An image is square.
        side = round(tokens.shape[1] ** 0.5)
        return self.decode_latents(self.quantize.lookup(tokens.reshape(-1, side, side)))

    def decode_pixels(self, tokens: Int[Array, "N S"]) -> UInt8[Array, "N H W 3"]:
        """Pixels of image tokens."""
        # Clipped, and truncated instead of rounded, as in Janus's generation_inference.py.
        return jnp.clip((self.decode(tokens) + 1) / 2 * 255, 0, 255).astype(jnp.uint8)
