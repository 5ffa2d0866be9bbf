"""Sizes of Janus models as frozen dataclasses, and the named sizes.

The sizes of the released models are in Table 1 of the Janus-Pro report.
"""

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
        """``S``, image tokens per image."""
        return (self.image_size // self.patch_size) ** 2


@dataclasses.dataclass(frozen=True)
class ImageTokenizerConfig:
    """VQ image tokenizer; every level but the last halves the side of an image."""

    codebook_size: int = 16384
    code_dim: int = 8
    latent_channels: int = 256
    base_channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    res_blocks: int = 2

    @property
    def downsample(self) -> int:
        """Pixels per token along a side."""
        return 2 ** (len(self.channel_multipliers) - 1)


@dataclasses.dataclass(frozen=True)
class JanusConfig:
    """A complete Janus model.

    Raises:
      UserError: parts whose sizes do not fit together.
    """

    vision: VisionConfig = VisionConfig()
    decoder: DecoderConfig = DecoderConfig()
    image_tokenizer: ImageTokenizerConfig = ImageTokenizerConfig()
    gen_head_dim: int = 2048

    def __post_init__(self):
        vision, decoder, tokenizer = self.vision, self.decoder, self.image_tokenizer

        # Generated and understood images have the same number of tokens, see ``image_tokens``.
        side, remainder = divmod(vision.image_size, tokenizer.downsample)
        if remainder or side**2 != vision.tokens:
            raise UserError(
                f"the image tokenizer shrinks {vision.image_size} px by {tokenizer.downsample}, "
                f"the vision tower by {vision.patch_size}; both must give the same number of image "
                "tokens"
            )
        if decoder.heads % decoder.kv_heads:
            raise UserError(
                f"{decoder.heads} query heads cannot share {decoder.kv_heads} key/value heads; "
                "choose a divisor"
            )

        # Group norm runs at every level of the image tokenizer.
        for multiplier in tokenizer.channel_multipliers:
            channels = tokenizer.base_channels * multiplier
            if channels % 32:
                raise UserError(
                    f"{channels} channels do not split into the 32 groups of group norm; "
                    "choose a multiple of 32"
                )

    @property
    def image_tokens(self) -> int:
        """``S``, tokens of an image, generated and understood alike."""
        return self.vision.tokens

    @property
    def image_size(self) -> int:
        """Pixels along a side of an image, generated and understood alike."""
        return self.vision.image_size

    @property
    def text_vocab_size(self) -> int:
        """``V``, classes of the text head."""
        return self.decoder.vocab_size

    @property
    def image_vocab_size(self) -> int:
        """``I``, classes of the image head: the size of the codebook."""
        return self.image_tokenizer.codebook_size

    @property
    def head_sizes(self) -> tuple[int, ...]:
        """Head sizes of decoder and vision tower, which an attention kernel must support."""
        return self.decoder.head_size, self.vision.width // self.vision.heads

    @property
    def image_grid(self) -> int:
        """Image tokens along a side."""
        return math.isqrt(self.image_tokens)


TEXT_POSITIONS = 1472
"""Positions beside an image in a policy that ``corl init`` makes."""

# For tests and tutorials; a CPU trains it in minutes.
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

# Images of 384 px in 576 tokens as those of the released models have, in a model that one CPU trains:
# for trying records and rewards of one's own.
SMALL = JanusConfig(
    vision=VisionConfig(image_size=384, patch_size=16, width=128, depth=3, heads=4, mlp_dim=352),
    decoder=DecoderConfig(
        vocab_size=4096,
        width=128,
        depth=4,
        heads=4,
        kv_heads=4,
        head_size=32,
        mlp_dim=352,
        max_length=2048,
    ),
    image_tokenizer=ImageTokenizerConfig(
        codebook_size=1024,
        code_dim=8,
        latent_channels=64,
        base_channels=32,
        channel_multipliers=(1, 1, 1, 1, 2),
        res_blocks=0,
    ),
    gen_head_dim=128,
)

# The defaults of the dataclasses are those of the 1B model.
JANUS_PRO_1B = JanusConfig()

# Vision tower and image tokenizer are those of the 1B model.
JANUS_PRO_7B = JanusConfig(
    decoder=DecoderConfig(width=4096, depth=30, heads=32, kv_heads=32, mlp_dim=11008),
    gen_head_dim=4096,
)

SIZES = {"tiny": TINY, "janus_pro_1b": JANUS_PRO_1B, "janus_pro_7b": JANUS_PRO_7B}


NEW_SIZES = {"tiny": TINY, "small": SMALL}
"""Sizes of policies that ``corl init`` makes, up to their image size and vocabulary."""


def resized(size: JanusConfig, image_size: int, vocab_size: int) -> JanusConfig:
    """``size`` for other images and another tokenizer, with room for texts beside the longer images.

    Raises:
      UserError: images that do not divide into the patches of ``size``.
    """
    patch = size.vision.patch_size
    if image_size < 2 * patch or image_size % patch:
        raise UserError(
            f"--image-size must be a multiple of {patch}, and at least {2 * patch}; got {image_size}"
        )
    vision = dataclasses.replace(size.vision, image_size=image_size)
    # Positions cost nothing but a number, since they are rotations.
    longest = max(size.decoder.max_length, TEXT_POSITIONS + vision.tokens)
    decoder = dataclasses.replace(size.decoder, vocab_size=vocab_size, max_length=longest)
    return dataclasses.replace(size, vision=vision, decoder=decoder)


def named_size(name: str) -> JanusConfig:
    """One of ``SIZES``.

    Raises:
      UserError: an unknown name.
    """
    if name not in SIZES:
        raise UserError(f"unknown model size {name!r}; expected one of {', '.join(SIZES)}")
    return SIZES[name]
