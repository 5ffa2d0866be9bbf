"""The VQ image tokenizer: convolutional encoder and decoder around the codebook, channels last.

In: pictures ``[N, H, W, 3]`` in [-1, 1]. Out: codes ``[N, S]`` row by row, and pictures again (not clamped).
Compatible with VQ-16 of Janus (``vq_model.py``); every module keeps the name it has in the transformers layout.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from corl_jax.models.janus.codebook import Codebook
from corl_jax.models.janus.config import ImageTokenizerConfig

KERNEL = ("kernel", "kernel", "channels_in", "channels_out")


def conv(
    inputs: int, outputs: int, size: int, rngs: nnx.Rngs, strides: int = 1, padding: Any = "SAME"
) -> nnx.Conv:
    """A square convolution with bias, in float32."""
    return nnx.Conv(
        inputs,
        outputs,
        (size, size),
        strides=strides,
        padding=padding,
        rngs=rngs,
        kernel_metadata={"logical": KERNEL},
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
    """Norm, swish, conv, twice, plus a shortcut (1x1 where the width changes)."""

    def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs):
        self.norm1, self.conv1 = group_norm(inputs, rngs), conv(inputs, outputs, 3, rngs)
        self.norm2, self.conv2 = group_norm(outputs, rngs), conv(outputs, outputs, 3, rngs)
        self.nin_shortcut = conv(inputs, outputs, 1, rngs) if inputs != outputs else None

    def __call__(self, x):
        """``[N, H, W, inputs]`` to ``[N, H, W, outputs]``."""
        h = self.conv1(jax.nn.silu(self.norm1(x)))
        h = self.conv2(jax.nn.silu(self.norm2(h)))
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(x))


class AttnBlock(nnx.Module):
    """Single-head attention over all positions, residual."""

    def __init__(self, channels: int, rngs: nnx.Rngs):
        self.norm = group_norm(channels, rngs)
        self.q, self.k, self.v = (conv(channels, channels, 1, rngs) for _ in range(3))
        self.proj_out = conv(channels, channels, 1, rngs)

    def __call__(self, x):
        """``[N, H, W, channels]``, same shape out."""
        h = self.norm(x)
        q, k, v = (f(h).reshape(x.shape[0], -1, x.shape[-1]) for f in (self.q, self.k, self.v))
        weights = jax.nn.softmax(jnp.einsum("NLC,NSC->NLS", q, k) * x.shape[-1] ** -0.5, -1)
        return x + self.proj_out(jnp.einsum("NLS,NSC->NLC", weights, v).reshape(x.shape))


class Downsample(nnx.Module):
    """Half the size: pad right and bottom by one, then a strided convolution without padding."""

    def __init__(self, channels: int, rngs: nnx.Rngs):
        self.conv = conv(channels, channels, 3, rngs, strides=2, padding=((0, 1), (0, 1)))

    def __call__(self, x):
        return self.conv(x)


class Upsample(nnx.Module):
    """Twice the size: nearest neighbour, then a convolution."""

    def __init__(self, channels: int, rngs: nnx.Rngs):
        self.conv = conv(channels, channels, 3, rngs)

    def __call__(self, x):
        return self.conv(jnp.repeat(jnp.repeat(x, 2, 1), 2, 2))


class Level(nnx.Module):
    """Residual blocks of one resolution, attention after each where asked, then maybe a change of size."""

    def __init__(
        self, inputs: int, outputs: int, blocks: int, attention: bool, resize: Any, rngs: nnx.Rngs
    ):
        self.block = nnx.List(
            ResBlock(inputs if i == 0 else outputs, outputs, rngs) for i in range(blocks)
        )
        self.attn = nnx.List(AttnBlock(outputs, rngs) for _ in range(blocks if attention else 0))
        self.downsample = Downsample(outputs, rngs) if resize == "down" else None
        self.upsample = Upsample(outputs, rngs) if resize == "up" else None

    def __call__(self, x):
        for i, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[i](x)
        for resize in (self.downsample, self.upsample):
            x = x if resize is None else resize(x)
        return x


class Middle(nnx.Module):
    """Residual, attention, residual at the lowest resolution."""

    def __init__(self, channels: int, rngs: nnx.Rngs):
        self.block_1, self.attn_1 = ResBlock(channels, channels, rngs), AttnBlock(channels, rngs)
        self.block_2 = ResBlock(channels, channels, rngs)

    def __call__(self, x):
        return self.block_2(self.attn_1(self.block_1(x)))


def encoder_widths(cfg: ImageTokenizerConfig) -> list[int]:
    """Channels of every encoder level; without residual blocks nothing changes the width."""
    return [cfg.base_channels * (m if cfg.res_blocks else 1) for m in cfg.channel_multipliers]


class Encoder(nnx.Module):
    """Pictures to latents."""

    def __init__(self, cfg: ImageTokenizerConfig, rngs: nnx.Rngs):
        widths = encoder_widths(cfg)
        last = len(widths) - 1
        self.conv_in = conv(3, cfg.base_channels, 3, rngs)
        self.down = nnx.List(
            Level(inputs, outputs, cfg.res_blocks, i == last, None if i == last else "down", rngs)
            for i, (inputs, outputs) in enumerate(
                zip([cfg.base_channels, *widths[:-1]], widths, strict=True)
            )
        )
        self.mid = Middle(widths[-1], rngs)
        self.norm_out, self.conv_out = (
            group_norm(widths[-1], rngs),
            conv(widths[-1], cfg.latent_channels, 3, rngs),
        )

    def __call__(self, x):
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(jax.nn.silu(self.norm_out(self.mid(x))))


class Decoder(nnx.Module):
    """Latents to pictures; level 0 has the lowest resolution, and one residual block more than the encoder's."""

    def __init__(self, cfg: ImageTokenizerConfig, rngs: nnx.Rngs):
        widths = [cfg.base_channels * m for m in reversed(cfg.channel_multipliers)]
        last = len(widths) - 1
        self.conv_in = conv(cfg.latent_channels, widths[0], 3, rngs)
        self.mid = Middle(widths[0], rngs)
        self.up = nnx.List(
            Level(inputs, outputs, cfg.res_blocks + 1, i == 0, None if i == last else "up", rngs)
            for i, (inputs, outputs) in enumerate(
                zip([widths[0], *widths[:-1]], widths, strict=True)
            )
        )
        self.norm_out, self.conv_out = group_norm(widths[-1], rngs), conv(widths[-1], 3, 3, rngs)

    def __call__(self, x):
        x = self.mid(self.conv_in(x))
        for level in self.up:
            x = level(x)
        return self.conv_out(jax.nn.silu(self.norm_out(x)))


class ImageTokenizer(nnx.Module):
    """Pictures to codes and back; always float32."""

    def __init__(self, cfg: ImageTokenizerConfig, *, rngs: nnx.Rngs):
        self.encoder = Encoder(cfg, rngs)
        self.quant_conv = conv(cfg.latent_channels, cfg.code_dim, 1, rngs)
        self.quantize = Codebook(cfg.codebook_size, cfg.code_dim, rngs=rngs)
        self.post_quant_conv = conv(cfg.code_dim, cfg.latent_channels, 1, rngs)
        self.decoder = Decoder(cfg, rngs)

    def latents(self, images: Float[Array, "N H W 3"]) -> Float[Array, "N h w Z"]:
        """What the codebook is asked about."""
        return self.quant_conv(self.encoder(images.astype(jnp.float32)))

    def encode(self, images: Float[Array, "N H W 3"]) -> Int[Array, "N S"]:
        """Codes of pictures in [-1, 1], row by row."""
        return self.quantize.nearest(self.latents(images)).reshape(images.shape[0], -1)

    def decode_latents(self, z: Float[Array, "N h w Z"]) -> Float[Array, "N H W 3"]:
        """Pictures of quantised latents."""
        return self.decoder(self.post_quant_conv(z))

    def decode(self, codes: Int[Array, "N S"]) -> Float[Array, "N H W 3"]:
        """Pictures of codes; in about [-1, 1], not clamped."""
        side = round(codes.shape[1] ** 0.5)
        return self.decode_latents(self.quantize.lookup(codes.reshape(-1, side, side)))

    def decode_pixels(self, codes: Int[Array, "N S"]) -> UInt8[Array, "N H W 3"]:
        """Pictures of codes as bytes: clipped, fractions dropped (``generation_inference.py``)."""
        return jnp.clip((self.decode(codes) + 1) / 2 * 255, 0, 255).astype(jnp.uint8)
