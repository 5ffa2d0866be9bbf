"""Reads and writes ``config.json`` of the original layout.

Compatible with ``deepseek-ai/Janus-Pro-*`` and ``deepseek-ai/Janus-1.3B`` (``modeling_vlm.py``).
That format gives the names of its vision tower and image tokenizer instead of their sizes. To write
small models too, sizes may be listed next to the name, under the argument names of the original
code (``SigLIPVisionCfg``, ``ModelArgs``), and take precedence over it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from corl_jax.core.errors import UserError
from corl_jax.models.janus.config import ImageTokenizerConfig, JanusConfig, VisionConfig
from corl_jax.models.language_model import DecoderConfig

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
LLAMA_DEFAULTS: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 2048,
}
"""Defaults of ``LlamaConfig`` for entries that are absent, as several are in the released 7B."""

RELEASED_TOKEN_IDS = {2048: (100002, 100581), 4096: (100015, 100594)}
"""(padding id, image placeholder id) in the released tokenizers, by the width of their model."""


def read_config(raw: Mapping[str, Any], folder: str) -> JanusConfig:
    """The sizes in a ``config.json`` of model type ``multi_modality``.

    Args:
      raw: content of the file.
      folder: of the file, for errors.

    Raises:
      UserError: a missing entry, or a variant that ``models/janus`` does not build.
    """
    try:
        text = LLAMA_DEFAULTS | raw["language_config"]
        cfg = JanusConfig(
            vision=_read_vision(raw["vision_config"]["params"], folder),
            decoder=_read_decoder(text),
            image_tokenizer=_read_image_tokenizer(raw["gen_vision_config"], folder),
            gen_head_dim=raw["gen_head_config"]["params"]["image_token_embed"],
        )

        # The original code has other kinds of projectors, which models/janus does not build.
        for part in ("aligner_config", "gen_aligner_config"):
            projector = (raw[part]["params"]["projector_type"], raw[part]["params"]["depth"])
            if projector != ("mlp_gelu", 2):
                raise UserError(
                    f"projector_type and depth of {part} in config.json of {folder!r} must be "
                    f"('mlp_gelu', 2); got {projector}; take the file of the original checkpoint"
                )

    # The content comes from a file, so any entry can be absent or of another type.
    except KeyError as error:
        raise UserError(
            f"config.json in {folder!r} lacks {error}; take the file of the original checkpoint"
        ) from None
    except (TypeError, AttributeError) as error:
        raise UserError(
            f"config.json in {folder!r} has a value of another type ({error}); "
            "take the file of the original checkpoint"
        ) from None
    return cfg


def _read_vision(params: Mapping[str, Any], folder: str) -> VisionConfig:
    vision = _with_named_sizes(params, "model_name", VISION_TOWERS, folder)
    return VisionConfig(
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        width=vision["width"],
        depth=vision["layers"],
        heads=vision["heads"],
        mlp_dim=round(vision["width"] * vision["mlp_ratio"]),
    )


def _read_image_tokenizer(raw: Mapping[str, Any], folder: str) -> ImageTokenizerConfig:
    # Here the name is next to the sizes' block, not in it.
    params = {"cls": raw["cls"], **raw["params"]}
    sizes = _with_named_sizes(params, "cls", IMAGE_TOKENIZERS, folder)

    # The sizes of the codebook are always listed; the name stands for the others.
    return ImageTokenizerConfig(
        codebook_size=params["image_token_size"],
        code_dim=params["n_embed"],
        latent_channels=sizes["z_channels"],
        base_channels=sizes["ch"],
        channel_multipliers=tuple(sizes["ch_mult"]),
        res_blocks=sizes["num_res_blocks"],
    )


def _read_decoder(text: Mapping[str, Any]) -> DecoderConfig:
    # Absent entries mean one key/value head per head, and heads that share the width evenly.
    heads = text["num_attention_heads"]
    return DecoderConfig(
        vocab_size=text["vocab_size"],
        width=text["hidden_size"],
        depth=text["num_hidden_layers"],
        heads=heads,
        kv_heads=text.get("num_key_value_heads") or heads,
        head_size=text.get("head_dim") or text["hidden_size"] // heads,
        mlp_dim=text["intermediate_size"],
        norm_eps=text["rms_norm_eps"],
        rope_theta=text["rope_theta"],
        max_length=text["max_position_embeddings"],
    )


def _with_named_sizes(
    params: Mapping[str, Any], key: str, known: Mapping[str, Mapping[str, Any]], folder: str
) -> dict[str, Any]:
    """``params`` with the sizes that the name ``params[key]`` stands for, where absent."""
    # An unknown name is accepted if all sizes are listed, as for small models.
    name = params[key]
    sizes = next(iter(known.values()))
    if name not in known and not sizes.keys() <= params.keys():
        raise UserError(
            f"{key} in config.json of {folder!r} must be one of {', '.join(known)}; got {name!r}; "
            f"for another model list its sizes next to the name ({', '.join(sizes)})"
        )
    return {**known.get(name, {}), **params}


def image_token_id(raw: Mapping[str, Any], pad_id: int, image_id: int) -> int:
    """The id of the image placeholder that the weights were trained with.

    This layout has no token ids in its ``config.json``. The one mistake that can be detected is a
    tokenizer of the other released size.

    Args:
      raw: content of ``config.json``.
      pad_id: id of padding in the tokenizer.
      image_id: id of the image placeholder in the tokenizer.
    """
    # Tokenizers with other ids than the released ones are trusted.
    width = (LLAMA_DEFAULTS | raw["language_config"])["hidden_size"]
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
