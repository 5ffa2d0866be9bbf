"""Reads and writes ``config.json`` of the transformers layout.

Compatible with ``JanusForConditionalGeneration`` (transformers 5), as in
``deepseek-community/Janus-Pro-*``: what is absent has its default there, and a null is an error but
where transformers allows one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.errors import UserError
from corl_jax.models.janus.config import ImageTokenizerConfig, JanusConfig, VisionConfig
from corl_jax.porting.janus.llama_config import read_decoder
from corl_jax.porting.size_limits import (
    MAX_BLOCKS,
    MAX_HEADS,
    MAX_IMAGE_SIDE,
    MAX_LAYERS,
    MAX_LEVELS,
    MAX_VOCABULARY,
    MAX_WIDTH,
)

ADVICE = "take the file of the original checkpoint"


def read_config(raw: Mapping[str, object], folder: str) -> JanusConfig:
    """The sizes in a ``config.json`` of model type ``janus``.

    Args:
      raw: content of the file.
      folder: of the file, for errors.

    Raises:
      UserError: a value of another type or beyond a limit, or a variant that ``models/janus`` does
        not build.
    """
    config = JsonObject(raw, f"config.json of {folder!r}", ADVICE)
    # A block that is absent or null has defaults alone, as in transformers.
    text, vision, vq = (
        config.optional_block(name) for name in ("text_config", "vision_config", "vq_config")
    )
    cfg = JanusConfig(
        vision=_read_vision(vision),
        decoder=read_decoder(text),
        image_tokenizer=_read_image_tokenizer(vq),
        gen_head_dim=vq.integer("projection_dim", 2048, low=1, high=MAX_WIDTH),
    )

    # The format allows other values of these entries; models/janus builds only one of each.
    vision.require("hidden_act", "gelu", default="gelu")
    vision.require("num_channels", 3, default=3)
    vision.require("attention_bias", True, default=True)
    vision.require("use_qk_norm", False, default=False)
    vision.require("depth", 2, default=2)
    vision.require("num_image_tokens", cfg.image_tokens, default=576)
    vq.require("hidden_act", "gelu", default="gelu")
    vq.require("double_latent", False, default=False)
    vq.require("in_channels", 3, default=3)
    vq.require("out_channels", 3, default=3)
    vq.require("num_hidden_layers", 2, default=2)
    return cfg


def _read_vision(vision: JsonObject) -> VisionConfig:
    width = vision.integer("hidden_size", 1024, low=1, high=MAX_WIDTH)
    heads = vision.integer("num_attention_heads", 16, low=1, high=MAX_HEADS)
    if width % heads:
        vision.refuse("num_attention_heads", f"a divisor of the width {width}")

    # Truncated, as transformers does it.
    mlp_dim = int(width * vision.number("mlp_ratio", 4.0, low=0, high=MAX_WIDTH))
    if not 1 <= mlp_dim <= MAX_WIDTH:
        vision.refuse("mlp_ratio", f"such that {width} times it is from 1 to {MAX_WIDTH}")

    image_size = vision.integer("image_size", 384, low=1, high=MAX_IMAGE_SIDE)
    return VisionConfig(
        image_size=image_size,
        patch_size=vision.integer("patch_size", 16, low=1, high=image_size),
        width=width,
        depth=vision.integer("num_hidden_layers", 24, low=1, high=MAX_LAYERS),
        heads=heads,
        mlp_dim=mlp_dim,
        norm_eps=vision.number("layer_norm_eps", 1e-6, low=0, high=1),
    )


def _read_image_tokenizer(vq: JsonObject) -> ImageTokenizerConfig:
    return ImageTokenizerConfig(
        codebook_size=vq.integer("num_embeddings", 16384, low=1, high=MAX_VOCABULARY),
        code_dim=vq.integer("embed_dim", 8, low=1, high=MAX_WIDTH),
        latent_channels=vq.integer("latent_channels", 256, low=1, high=MAX_WIDTH),
        base_channels=vq.integer("base_channels", 128, low=1, high=MAX_WIDTH),
        channel_multipliers=vq.integers(
            "channel_multiplier", (1, 1, 2, 2, 4), low=1, high=MAX_WIDTH, length=MAX_LEVELS
        ),
        res_blocks=vq.integer("num_res_blocks", 2, low=0, high=MAX_BLOCKS),
    )


def image_token_id(raw: Mapping[str, object], pad_id: int, image_id: int) -> int:
    """The id of the image placeholder that the weights were trained with.

    Args:
      raw: content of ``config.json``; where it has no id, transformers takes that of the 1B model.
      pad_id: not used; the original layout needs it.
      image_id: not used either.
    """
    return JsonObject(raw, "config.json", ADVICE).integer("image_token_id", 100581)


def write_config(
    cfg: JanusConfig, dtype: str, *, image_token_id: int, bos_id: int, eos_id: int, pad_id: int
) -> dict[str, Any]:
    """The ``config.json`` of a model for transformers.

    Raises:
      UserError: ``gen_head`` is not as wide as the model, for which the layout has no entry.
    """
    width = cfg.decoder.width
    if cfg.gen_head_dim != width:
        raise UserError(
            f"gen_head_dim must be the width {width} in the transformers layout, which has one "
            f"number for both; got {cfg.gen_head_dim}; export with --layout original"
        )

    # The model and its language model both have these entries.
    token_ids = {"bos_token_id": bos_id, "eos_token_id": eos_id, "pad_token_id": pad_id}

    return {
        "architectures": ["JanusForConditionalGeneration"],
        "model_type": "janus",
        "image_token_id": image_token_id,
        "tie_word_embeddings": False,
        "dtype": dtype,
        **token_ids,
        "text_config": _text_config(cfg) | token_ids,
        "vision_config": _vision_config(cfg),
        "vq_config": _vq_config(cfg),
    }


def _text_config(cfg: JanusConfig) -> dict[str, Any]:
    decoder = cfg.decoder
    return {
        "model_type": "llama",
        "vocab_size": decoder.vocab_size,
        "hidden_size": decoder.width,
        "num_hidden_layers": decoder.depth,
        "num_attention_heads": decoder.heads,
        "num_key_value_heads": decoder.kv_heads,
        "head_dim": decoder.head_size,
        "intermediate_size": decoder.mlp_dim,
        "rms_norm_eps": decoder.norm_eps,
        "rope_theta": decoder.rope_theta,
        "max_position_embeddings": decoder.max_length,
        # Fixed in models/janus: no biases, SiLU, a head that is not tied to the embedding.
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    }


def _vision_config(cfg: JanusConfig) -> dict[str, Any]:
    vision = cfg.vision
    return {
        "model_type": "janus_vision_model",
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "hidden_size": vision.width,
        "num_hidden_layers": vision.depth,
        "num_attention_heads": vision.heads,
        "mlp_ratio": _mlp_ratio(vision.mlp_dim, vision.width),
        "layer_norm_eps": vision.norm_eps,
        # The aligner: its output width and its number of layers.
        "projection_dim": cfg.decoder.width,
        "depth": 2,
        "num_image_tokens": cfg.image_tokens,
        "hidden_act": "gelu",
    }


def _vq_config(cfg: JanusConfig) -> dict[str, Any]:
    tokenizer = cfg.image_tokenizer
    return {
        "model_type": "janus_vqgan",
        "embed_dim": tokenizer.code_dim,
        "num_embeddings": tokenizer.codebook_size,
        "double_latent": False,
        "latent_channels": tokenizer.latent_channels,
        "base_channels": tokenizer.base_channels,
        "channel_multiplier": list(tokenizer.channel_multipliers),
        "num_res_blocks": tokenizer.res_blocks,
        "num_patches": cfg.image_grid,
        # The generation aligner and head, which have two layers of the decoder's width.
        "projection_dim": cfg.decoder.width,
        "num_hidden_layers": 2,
        "hidden_act": "gelu",
        "image_token_embed_dim": cfg.decoder.width,
    }


def _mlp_ratio(mlp_dim: int, width: int) -> float:
    """The ratio of MLP width to width, such that truncating ``width * ratio`` gives ``mlp_dim``.

    Readers of the file compute the MLP width in this way, and the nearest float can be just below.
    """
    # Steps to the next larger float until truncation no longer loses one.
    ratio = mlp_dim / width
    while int(width * ratio) < mlp_dim:
        ratio = math.nextafter(ratio, math.inf)
    return ratio
