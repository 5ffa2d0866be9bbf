"""Reads and writes ``config.json`` of the original layout.

Compatible with ``deepseek-ai/Janus-Pro-*`` and ``deepseek-ai/Janus-1.3B`` (``modeling_vlm.py``).
That format gives the names of its vision tower and image tokenizer instead of their sizes. To write
small models too, sizes may be listed next to the name, under the argument names of the original
code (``SigLIPVisionCfg``, ``ModelArgs``), and take precedence over it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.models.janus.config import ImageTokenizerConfig, JanusConfig, VisionConfig
from corl_jax.models.language_model import DecoderConfig
from corl_jax.porting.janus.llama_config import DEFAULTS as LLAMA_DEFAULTS
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

SIGLIP = "siglip_large_patch16_384"
VQ = "VQ-16"
VISION_TOWERS: dict[str, dict[str, Any]] = {
    SIGLIP: {
        "image_size": 384,
        "patch_size": 16,
        "width": 1024,
        "layers": 24,
        "heads": 16,
        "mlp_ratio": 4,
    }
}
"""Sizes of the vision towers that a config may name."""
IMAGE_TOKENIZERS: dict[str, dict[str, Any]] = {
    VQ: {"ch": 128, "ch_mult": [1, 1, 2, 2, 4], "num_res_blocks": 2, "z_channels": 256}
}
"""Sizes of the image tokenizers that a config may name."""
RELEASED_TOKEN_IDS = {2048: (100002, 100581), 4096: (100015, 100594)}
"""(padding id, image placeholder id) in the released tokenizers, by the width of their model."""


def read_config(raw: Mapping[str, object], folder: str) -> JanusConfig:
    """The sizes in a ``config.json`` of model type ``multi_modality``.

    Args:
      raw: content of the file.
      folder: of the file, for errors.

    Raises:
      UserError: a missing entry, a value of another type or beyond a limit, or a variant that
        ``models/janus`` does not build.
    """
    config = JsonObject(raw, f"config.json of {folder!r}", ADVICE)
    gen_head = config.block("gen_head_config").block("params")
    cfg = JanusConfig(
        vision=_read_vision(config.block("vision_config").block("params")),
        decoder=read_decoder(config.block("language_config")),
        image_tokenizer=_read_image_tokenizer(config.block("gen_vision_config")),
        gen_head_dim=gen_head.integer("image_token_embed", low=1, high=MAX_WIDTH),
    )

    # The original code has other kinds of projectors, which models/janus does not build.
    for part in ("aligner_config", "gen_aligner_config"):
        projector = config.block(part).block("params")
        projector.require("projector_type", "mlp_gelu")
        projector.require("depth", 2)
    return cfg


def _read_vision(params: JsonObject) -> VisionConfig:
    # Features are the states of all tokens after the last layer.
    params.require("select_feature", "same", default="same")
    params.require("select_layer", -1, default=-1)

    vision = _with_named_sizes(params, "model_name", VISION_TOWERS)
    width = vision.integer("width", low=1, high=MAX_WIDTH)
    heads = vision.integer("heads", low=1, high=MAX_HEADS)
    if width % heads:
        vision.refuse("heads", f"a divisor of the width {width}")

    mlp_dim = round(width * vision.number("mlp_ratio", low=0, high=MAX_WIDTH))
    if not 1 <= mlp_dim <= MAX_WIDTH:
        vision.refuse("mlp_ratio", f"such that {width} times it is from 1 to {MAX_WIDTH}")

    image_size = vision.integer("image_size", low=1, high=MAX_IMAGE_SIDE)
    return VisionConfig(
        image_size=image_size,
        patch_size=vision.integer("patch_size", low=1, high=image_size),
        width=width,
        depth=vision.integer("layers", low=1, high=MAX_LAYERS),
        heads=heads,
        mlp_dim=mlp_dim,
    )


def _read_image_tokenizer(gen_vision: JsonObject) -> ImageTokenizerConfig:
    # Here the name is next to the sizes' block, not in it.
    params = gen_vision.block("params")
    named = dataclasses.replace(params, entries={"cls": gen_vision.text("cls"), **params.entries})
    sizes = _with_named_sizes(named, "cls", IMAGE_TOKENIZERS)

    # The sizes of the codebook are always listed; the name stands for the others.
    return ImageTokenizerConfig(
        codebook_size=params.integer("image_token_size", low=1, high=MAX_VOCABULARY),
        code_dim=params.integer("n_embed", low=1, high=MAX_WIDTH),
        latent_channels=sizes.integer("z_channels", low=1, high=MAX_WIDTH),
        base_channels=sizes.integer("ch", low=1, high=MAX_WIDTH),
        channel_multipliers=sizes.integers("ch_mult", low=1, high=MAX_WIDTH, length=MAX_LEVELS),
        res_blocks=sizes.integer("num_res_blocks", low=0, high=MAX_BLOCKS),
    )


def _with_named_sizes(
    params: JsonObject, key: str, known: Mapping[str, Mapping[str, object]]
) -> JsonObject:
    """``params`` with the sizes that the name ``params[key]`` stands for, where absent."""
    # An unknown name is accepted if all sizes are listed, as for small models.
    name = params.text(key)
    sizes = next(iter(known.values()))
    if name not in known and not sizes.keys() <= params.entries.keys():
        params.refuse(
            key, f"one of {', '.join(known)}, or stand next to all sizes ({', '.join(sizes)})"
        )
    return dataclasses.replace(params, entries={**known.get(name, {}), **params.entries})


def image_token_id(raw: Mapping[str, object], pad_id: int, image_id: int) -> int:
    """The id of the image placeholder that the weights were trained with.

    This layout has no token ids in its ``config.json``. The one mistake that can be detected is a
    tokenizer of the other released size.

    Args:
      raw: content of ``config.json``.
      pad_id: id of padding in the tokenizer.
      image_id: id of the image placeholder in the tokenizer.
    """
    # Tokenizers with other ids than the released ones are trusted.
    language = JsonObject(raw, "config.json", ADVICE).block("language_config")
    width = language.integer("hidden_size", LLAMA_DEFAULTS["hidden_size"])
    ids_of_other_sizes = [ids for size, ids in RELEASED_TOKEN_IDS.items() if size != width]
    if width in RELEASED_TOKEN_IDS and (pad_id, image_id) in ids_of_other_sizes:
        return RELEASED_TOKEN_IDS[width][1]
    return image_id


def write_config(cfg: JanusConfig, dtype: str) -> dict[str, Any]:
    """The ``config.json`` of a model; for a released size it equals the released file's content."""
    decoder, tokenizer = cfg.decoder, cfg.image_tokenizer

    # Projectors from vision tower and codebook to the width of the decoder.
    aligner = _projector_config("aligner", cfg.vision.width, decoder.width)
    gen_aligner = _projector_config("gen_aligner", tokenizer.code_dim, decoder.width)

    # The image head: a hidden layer of its own width, then logits over the codebook.
    gen_head = {
        "image_token_embed": cfg.gen_head_dim,
        "image_token_size": tokenizer.codebook_size,
        "n_embed": decoder.width,
    }
    return {
        "architectures": ["MultiModalityCausalLM"],
        "model_type": "multi_modality",
        "torch_dtype": dtype,
        "aligner_config": aligner,
        "gen_aligner_config": gen_aligner,
        "gen_head_config": {"cls": "vision_head", "model_type": "gen_head", "params": gen_head},
        "gen_vision_config": _image_tokenizer_config(tokenizer),
        "language_config": _language_config(decoder, dtype),
        "vision_config": _vision_config(cfg.vision),
    }


def _language_config(decoder: DecoderConfig, dtype: str) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "vocab_size": decoder.vocab_size,
        "hidden_size": decoder.width,
        "intermediate_size": decoder.mlp_dim,
        "num_hidden_layers": decoder.depth,
        "num_attention_heads": decoder.heads,
        "num_key_value_heads": decoder.kv_heads,
        "head_dim": decoder.head_size,
        "rms_norm_eps": decoder.norm_eps,
        "rope_theta": decoder.rope_theta,
        "max_position_embeddings": decoder.max_length,
        "torch_dtype": dtype,
    }


def _projector_config(kind: str, inputs: int, outputs: int) -> dict[str, Any]:
    params = {"depth": 2, "input_dim": inputs, "n_embed": outputs, "projector_type": "mlp_gelu"}
    return {"cls": "MlpProjector", "model_type": kind, "params": params}


def _image_tokenizer_config(tokenizer: ImageTokenizerConfig) -> dict[str, Any]:
    sizes = {
        "ch": tokenizer.base_channels,
        "ch_mult": list(tokenizer.channel_multipliers),
        "num_res_blocks": tokenizer.res_blocks,
        "z_channels": tokenizer.latent_channels,
    }

    # The name in ``cls`` stands for the released sizes.
    listed = {} if sizes == IMAGE_TOKENIZERS[VQ] else sizes
    codebook = {"image_token_size": tokenizer.codebook_size, "n_embed": tokenizer.code_dim}
    return {"cls": VQ, "model_type": "gen_vision", "params": codebook | listed}


def _vision_config(vision: VisionConfig) -> dict[str, Any]:
    sizes = {
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "width": vision.width,
        "layers": vision.depth,
        "heads": vision.heads,
        "mlp_ratio": vision.mlp_dim / vision.width,
    }

    # The name stands for the released sizes, next to which the released file lists one.
    listed = {"image_size": vision.image_size} if sizes == VISION_TOWERS[SIGLIP] else sizes
    params = {"model_name": SIGLIP, "select_feature": "same", "select_layer": -1}
    return {"cls": "CLIPVisionTower", "model_type": "vision", "params": params | listed}
