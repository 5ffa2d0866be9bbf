"""``config.json`` of the transformers layout to our sizes, and back.

Compatible with ``JanusForConditionalGeneration`` (transformers 5), as in ``deepseek-community/Janus-Pro-*``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from corl_jax.core.errors import UserError
from corl_jax.models.janus.config import ImageTokenizerConfig, JanusConfig, VisionConfig
from corl_jax.models.language_model import DecoderConfig


def read_config(raw: dict[str, Any], where: str) -> JanusConfig:
    """Our sizes from a ``config.json`` of model type ``janus``.

    Raises:
      UserError: a number missing, or sizes that our modules do not build.
    """
    try:
        text, vision, vq = raw["text_config"], raw["vision_config"], raw["vq_config"]
        heads = text["num_attention_heads"]
        cfg = JanusConfig(
            vision=VisionConfig(
                image_size=vision["image_size"],
                patch_size=vision["patch_size"],
                width=vision["hidden_size"],
                depth=vision["num_hidden_layers"],
                heads=vision["num_attention_heads"],
                mlp_dim=int(vision["hidden_size"] * vision["mlp_ratio"]),
                norm_eps=vision["layer_norm_eps"],
            ),
            decoder=DecoderConfig(
                vocab_size=text["vocab_size"],
                width=text["hidden_size"],
                depth=text["num_hidden_layers"],
                heads=heads,
                kv_heads=text["num_key_value_heads"],
                head_size=text["head_dim"]
                if text.get("head_dim")
                else text["hidden_size"] // heads,
                mlp_dim=text["intermediate_size"],
                norm_eps=text["rms_norm_eps"],
                rope_theta=text["rope_theta"]
                if "rope_theta" in text
                else text["rope_parameters"]["rope_theta"],
                max_length=text["max_position_embeddings"],
            ),
            image_tokenizer=ImageTokenizerConfig(
                codebook_size=vq["num_embeddings"],
                code_dim=vq["embed_dim"],
                latent_channels=vq["latent_channels"],
                base_channels=vq["base_channels"],
                channel_multipliers=tuple(vq["channel_multiplier"]),
                res_blocks=vq["num_res_blocks"],
            ),
            gen_head_dim=vq["projection_dim"],
        )
    except KeyError as error:
        raise UserError(
            f"config.json in {where!r} lacks {error}; take the file of the original checkpoint"
        ) from None
    except TypeError as error:
        raise UserError(
            f"config.json in {where!r} has a value of another type ({error}); take the file of the original checkpoint"
        ) from None
    for name, got, ours in (
        ("text_config.hidden_act", text.get("hidden_act", "silu"), "silu"),
        ("vision_config.hidden_act", vision.get("hidden_act", "gelu"), "gelu"),
        ("vq_config.double_latent", vq["double_latent"], False),
        ("vision_config.depth", vision["depth"], 2),
        ("vision_config.num_image_tokens", vision["num_image_tokens"], cfg.image_tokens),
    ):
        if got != ours:
            raise UserError(
                f"config.json in {where!r} has {name}={got!r}; this program builds {ours!r}"
            )
    return cfg


def image_token_id(raw: Mapping[str, Any], pad_id: int, image_id: int) -> int:
    """The id of the image placeholder that the weights know."""
    return raw.get("image_token_id", image_id)


def _ratio(part: int, whole: int) -> float:
    """``part / whole`` such that readers, who multiply and cut off the fraction, get ``part`` back."""
    ratio = part / whole
    while int(whole * ratio) < part:
        ratio = math.nextafter(ratio, math.inf)
    return ratio


def write_config(
    cfg: JanusConfig, dtype: str, *, image_token_id: int, bos_id: int, eos_id: int, pad_id: int
) -> dict[str, Any]:
    """The ``config.json`` of ``cfg`` for transformers, where ``gen_aligner`` and ``gen_head`` share one width."""
    d, v, t = cfg.decoder, cfg.vision, cfg.image_tokenizer
    if cfg.gen_head_dim != d.width:
        raise UserError(
            f"gen_head_dim {cfg.gen_head_dim} differs from the width {d.width}; the layout has one number"
        )
    return {
        "architectures": ["JanusForConditionalGeneration"],
        "model_type": "janus",
        "image_token_id": image_token_id,
        "tie_word_embeddings": False,
        "dtype": dtype,
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        "pad_token_id": pad_id,
        "text_config": {
            "model_type": "llama",
            "vocab_size": d.vocab_size,
            "hidden_size": d.width,
            "num_hidden_layers": d.depth,
            "num_attention_heads": d.heads,
            "num_key_value_heads": d.kv_heads,
            "head_dim": d.head_size,
            "intermediate_size": d.mlp_dim,
            "rms_norm_eps": d.norm_eps,
            "rope_theta": d.rope_theta,
            "max_position_embeddings": d.max_length,
            "attention_bias": False,
            "mlp_bias": False,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "bos_token_id": bos_id,
            "eos_token_id": eos_id,
            "pad_token_id": pad_id,
        },
        "vision_config": {
            "model_type": "janus_vision_model",
            "image_size": v.image_size,
            "patch_size": v.patch_size,
            "hidden_size": v.width,
            "num_hidden_layers": v.depth,
            "num_attention_heads": v.heads,
            "mlp_ratio": _ratio(v.mlp_dim, v.width),
            "layer_norm_eps": v.norm_eps,
            "projection_dim": d.width,
            "depth": 2,
            "num_image_tokens": cfg.image_tokens,
            "hidden_act": "gelu",
        },
        "vq_config": {
            "model_type": "janus_vqgan",
            "embed_dim": t.code_dim,
            "num_embeddings": t.codebook_size,
            "double_latent": False,
            "latent_channels": t.latent_channels,
            "base_channels": t.base_channels,
            "channel_multiplier": list(t.channel_multipliers),
            "num_res_blocks": t.res_blocks,
            "num_patches": cfg.image_grid,
            "projection_dim": d.width,
            "num_hidden_layers": 2,
            "hidden_act": "gelu",
            "image_token_embed_dim": d.width,
        },
    }
