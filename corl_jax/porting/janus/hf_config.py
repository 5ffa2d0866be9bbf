"""Reads and writes ``config.json`` of the transformers layout.

Compatible with ``JanusForConditionalGeneration`` (transformers 5), as in
``deepseek-community/Janus-Pro-*``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from corl_jax.core.errors import UserError
from corl_jax.models.janus.config import ImageTokenizerConfig, JanusConfig, VisionConfig
from corl_jax.models.language_model import DecoderConfig


def read_config(raw: dict[str, Any], folder: str) -> JanusConfig:
    """The sizes in a ``config.json`` of model type ``janus``.

    Args:
      raw: content of the file.
      folder: of the file, for errors.

    Raises:
      UserError: a missing entry, or a variant that ``models/janus`` does not build.
    """
    try:
        text, vision, vq = raw["text_config"], raw["vision_config"], raw["vq_config"]
        cfg = JanusConfig(
            vision=_read_vision(vision),
            decoder=_read_decoder(text),
            image_tokenizer=_read_image_tokenizer(vq),
            gen_head_dim=vq["projection_dim"],
        )

    # The content comes from a file, so any entry can be absent or of another type.
    except KeyError as error:
        raise UserError(
            f"config.json in {folder!r} lacks {error}; take the file of the original checkpoint"
        ) from None
    except TypeError as error:
        raise UserError(
            f"config.json in {folder!r} has a value of another type ({error}); "
            "take the file of the original checkpoint"
        ) from None

    # The format allows other values of these entries; models/janus builds only one of each.
    # Entries that older files lack have a default.
    for name, value, built in (
        ("text_config.hidden_act", text.get("hidden_act", "silu"), "silu"),
        ("vision_config.hidden_act", vision.get("hidden_act", "gelu"), "gelu"),
        ("vq_config.double_latent", vq["double_latent"], False),
        ("vision_config.depth", vision["depth"], 2),
        ("vision_config.num_image_tokens", vision["num_image_tokens"], cfg.image_tokens),
    ):
        if value != built:
            raise UserError(
                f"{name} in config.json of {folder!r} must be {built!r}; got {value!r}; "
                "take the file of the original checkpoint"
            )
    return cfg


def _read_vision(vision: Mapping[str, Any]) -> VisionConfig:
    return VisionConfig(
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        width=vision["hidden_size"],
        depth=vision["num_hidden_layers"],
        heads=vision["num_attention_heads"],
        # Truncated, as transformers does it.
        mlp_dim=int(vision["hidden_size"] * vision["mlp_ratio"]),
        norm_eps=vision["layer_norm_eps"],
    )


def _read_decoder(text: Mapping[str, Any]) -> DecoderConfig:
    heads = text["num_attention_heads"]

    # transformers 5 moved the base of the rotary embedding into an object of its own.
    rope = text if "rope_theta" in text else text["rope_parameters"]

    return DecoderConfig(
        vocab_size=text["vocab_size"],
        width=text["hidden_size"],
        depth=text["num_hidden_layers"],
        heads=heads,
        kv_heads=text["num_key_value_heads"],
        # Configs from before head_dim existed have heads that share the width evenly.
        head_size=text["head_dim"] if text.get("head_dim") else text["hidden_size"] // heads,
        mlp_dim=text["intermediate_size"],
        norm_eps=text["rms_norm_eps"],
        rope_theta=rope["rope_theta"],
        max_length=text["max_position_embeddings"],
    )


def _read_image_tokenizer(vq: Mapping[str, Any]) -> ImageTokenizerConfig:
    return ImageTokenizerConfig(
        codebook_size=vq["num_embeddings"],
        code_dim=vq["embed_dim"],
        latent_channels=vq["latent_channels"],
        base_channels=vq["base_channels"],
        channel_multipliers=tuple(vq["channel_multiplier"]),
        res_blocks=vq["num_res_blocks"],
    )


def image_token_id(raw: Mapping[str, Any], pad_id: int, image_id: int) -> int:
    """The id of the image placeholder that the weights were trained with.

    Args:
      raw: content of ``config.json``.
      pad_id: not used; the original layout needs it.
      image_id: id in the tokenizer, which counts if ``config.json`` has none.
    """
    return raw.get("image_token_id", image_id)


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
