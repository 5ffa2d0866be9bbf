"""Sizes of the unified model as frozen dataclasses, and the named ones (facts: the Janus-Pro report, Table 1)."""

from __future__ import annotations

import dataclasses
import math

from corl_jax.core.errors import UserError
from corl_jax.models.language_model import DecoderConfig


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """SigLIP tower for understanding: ``(image_size / patch_size)**2`` tokens of ``width``."""

    image_size: int = 384
    patch_size: int = 16
    width: int = 1024
    depth: int = 24
    heads: int = 16
    mlp_dim: int = 4096
    norm_eps: float = 1e-6

    @property
    def tokens(self) -> int:
        """Image tokens per picture (``S``)."""
        return (self.image_size // self.patch_size) ** 2


@dataclasses.dataclass(frozen=True)
class ImageTokenizerConfig:
    """VQ image tokenizer; pictures shrink by two at every level but the last."""

    codebook_size: int = 16384
    code_dim: int = 8
    latent_channels: int = 256
    base_channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    res_blocks: int = 2

    @property
    def downsample(self) -> int:
        """Pixels per token along one side."""
        return 2 ** (len(self.channel_multipliers) - 1)


@dataclasses.dataclass(frozen=True)
class JanusConfig:
    """The whole unified model.

    Raises:
      UserError: parts whose sizes do not fit together.
    """

    vision: VisionConfig = VisionConfig()
    decoder: DecoderConfig = DecoderConfig()
    image_tokenizer: ImageTokenizerConfig = ImageTokenizerConfig()
    gen_head_dim: int = 2048

    def __post_init__(self):
        v, d, t = self.vision, self.decoder, self.image_tokenizer
        if v.image_size % t.downsample or (v.image_size // t.downsample) ** 2 != v.tokens:
            raise UserError(
                f"the image tokenizer shrinks {v.image_size} px by {t.downsample}, the vision tower by {v.patch_size}; "
                "both must give the same number of image tokens"
            )
        if d.heads % d.kv_heads:
            raise UserError(
                f"{d.heads} query heads cannot share {d.kv_heads} key/value heads; choose a divisor"
            )
        for channels in (t.base_channels * m for m in t.channel_multipliers):
            if channels % 32:
                raise UserError(
                    f"{channels} channels do not split into the 32 groups of group norm; use a multiple"
                )

    @property
    def image_tokens(self) -> int:
        """Image tokens per picture (``S``), generated and understood alike."""
        return self.vision.tokens

    @property
    def head_sizes(self) -> tuple[int, ...]:
        """Head size of every kind of attention in it."""
        return self.decoder.head_size, self.vision.width // self.vision.heads

    @property
    def image_grid(self) -> int:
        """Image tokens along one side."""
        return math.isqrt(self.image_tokens)


TINY = JanusConfig(
    vision=VisionConfig(image_size=48, patch_size=8, width=128, depth=3, heads=4, mlp_dim=352),
    decoder=DecoderConfig(
        vocab_size=72,
        width=128,
        depth=4,
        heads=4,
        kv_heads=4,
        head_size=32,
        mlp_dim=352,
        max_length=512,
    ),
    image_tokenizer=ImageTokenizerConfig(
        codebook_size=256,
        code_dim=8,
        latent_channels=64,
        base_channels=32,
        channel_multipliers=(1, 1, 1, 2),
        res_blocks=0,
    ),
    gen_head_dim=128,
)

JANUS_PRO_1B = JanusConfig()

JANUS_PRO_7B = JanusConfig(
    decoder=DecoderConfig(width=4096, depth=30, heads=32, kv_heads=32, mlp_dim=11008),
    gen_head_dim=4096,
)

SIZES = {"tiny": TINY, "janus_pro_1b": JANUS_PRO_1B, "janus_pro_7b": JANUS_PRO_7B}


def named_size(name: str) -> JanusConfig:
    """One of ``SIZES``.

    Raises:
      UserError: unknown name.
    """
    if name not in SIZES:
        raise UserError(f"unknown model size {name!r}; expected one of {', '.join(SIZES)}")
    return SIZES[name]
