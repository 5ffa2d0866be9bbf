"""Models that benchmarks run on: sizes, random weights, prompts. In: names; out: configs, folders, ``Prompts``."""

from __future__ import annotations

import dataclasses
import math
import pathlib

import jax
import numpy as np

from corl_jax.core.errors import UserError
from corl_jax.core.trees import flatten
from corl_jax.core.types import Prompts
from corl_jax.data.shapes.vocabulary import COLOURS, SHAPES, WORDS, write_tokenizer
from corl_jax.data.text_tokenizer import TextTokenizer, left_pad
from corl_jax.models.janus.config import (
    JANUS_PRO_1B,
    TINY,
    DecoderConfig,
    ImageTokenizerConfig,
    JanusConfig,
    VisionConfig,
)
from corl_jax.models.janus.model import initialise
from corl_jax.porting.writer import save_folder

DOT = JanusConfig(
    vision=VisionConfig(image_size=16, patch_size=8, width=32, depth=1, heads=2, mlp_dim=32),
    decoder=DecoderConfig(
        vocab_size=72,
        width=32,
        depth=2,
        heads=2,
        kv_heads=2,
        head_size=16,
        mlp_dim=64,
        max_length=128,
    ),
    image_tokenizer=ImageTokenizerConfig(
        codebook_size=32,
        latent_channels=32,
        base_channels=32,
        channel_multipliers=(1, 1, 1, 1),
        res_blocks=0,
    ),
    gen_head_dim=32,
)
"""Four image tokens: to try a command, not to measure."""

MID = JanusConfig(
    vision=VisionConfig(width=64, depth=1, heads=2, mlp_dim=128),
    decoder=DecoderConfig(
        vocab_size=72,
        width=512,
        depth=8,
        heads=8,
        kv_heads=8,
        head_size=64,
        mlp_dim=1408,
        max_length=1024,
    ),
    image_tokenizer=ImageTokenizerConfig(
        latent_channels=32, base_channels=32, channel_multipliers=(1, 1, 1, 1, 1), res_blocks=0
    ),
    gen_head_dim=512,
)
"""A trunk of middle size; as many image tokens (576, read and drawn alike) and codes (16384) as Janus-Pro. The vision
tower and the image tokenizer are small, so that the language model is what costs."""

SIZES = {"dot": DOT, "tiny": TINY, "mid": MID, "janus_pro_1b": JANUS_PRO_1B}

PROMPT_TOKENS = 20


def size_named(name: str) -> JanusConfig:
    """One of ``SIZES``.

    Raises:
      UserError: unknown name, or a size that a CPU takes hours for.
    """
    if name not in SIZES:
        raise UserError(f"unknown size {name!r}; expected one of {', '.join(SIZES)}")
    if name == "janus_pro_1b" and jax.default_backend() == "cpu":
        raise UserError(
            "--size janus_pro_1b takes hours and about 30 GB on a CPU; use a GPU, or --size mid"
        )
    return SIZES[name]


def with_image_tokens(cfg: JanusConfig, tokens: int) -> JanusConfig:
    """``cfg`` for pictures of another size.

    Raises:
      UserError: ``tokens`` is no square.
    """
    side = math.isqrt(max(tokens, 0))
    if side < 1 or side * side != tokens:
        raise UserError(f"{tokens} image tokens are no square picture; expected 4, 9, 16, 25, ...")
    vision = dataclasses.replace(cfg.vision, image_size=side * cfg.vision.patch_size)
    return dataclasses.replace(cfg, vision=vision)


def random_folder(cfg: JanusConfig, where: pathlib.Path) -> pathlib.Path:
    """A Hugging Face folder in ``where`` with freshly initialised weights and the embedded world's tokenizer."""
    params = jax.jit(lambda key: flatten(initialise(cfg, key))[1])(jax.random.key(0))
    save_folder(params, cfg, write_tokenizer(where / "words"), where / "policy")
    return where / "policy"


def sample_prompts(tokenizer: TextTokenizer, count: int) -> Prompts:
    """``count`` prompts of ``PROMPT_TOKENS`` tokens that ask for a picture, without padding."""
    words, inner = tokenizer.encode(" ".join(WORDS)), PROMPT_TOKENS - 2
    starts = [i % (len(words) - inner) for i in range(count)]
    rows = [[tokenizer.bos_id, *words[i : i + inner], tokenizer.boi_id] for i in starts]
    return Prompts(np.array(rows, np.int32), np.ones((count, PROMPT_TOKENS), bool))


def sample_questions(tokenizer: TextTokenizer, cfg: JanusConfig, count: int) -> Prompts:
    """``count`` questions of two lengths, left-padded, each about a random picture."""
    shapes = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    asked = [
        f"is there a {shapes[i % len(shapes)]}{' left of a circle' if i % 2 else ''}?"
        for i in range(count)
    ]
    rows = [tokenizer.question_prompt(text, cfg.image_tokens) for text in asked]
    side = cfg.vision.image_size
    pictures = np.random.default_rng(0).uniform(-1, 1, (count, side, side, 3)).astype(np.float32)
    return Prompts(*left_pad(rows, tokenizer.pad_id), pictures)
