"""``config.json`` of the original layout to our sizes, and back.

Compatible with ``deepseek-ai/Janus-Pro-*`` and ``deepseek-ai/Janus-1.3B`` (``modeling_vlm.py``). That format names its
vision tower and image tokenizer instead of giving their sizes; sizes beside the name, under the original's own argument
names (``SigLIPVisionCfg``, ``ModelArgs``), win over it, so that small models can be written too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from corl_jax.core.errors import UserError
from corl_jax.models.janus.config import ImageTokenizerConfig, JanusConfig, VisionConfig
from corl_jax.models.language_model import DecoderConfig

SIGLIP = "siglip_large_patch16_384"
VQ = "VQ-16"
TOWERS: dict[str, dict[str, Any]] = {
    SIGLIP: {
        "image_size": 384,
        "patch_size": 16,
        "width": 1024,
        "layers": 24,
        "heads": 16,
        "mlp_ratio": 4,
    }
}
TOKENIZERS: dict[str, dict[str, Any]] = {
    VQ: {"ch": 128, "ch_mult": [1, 1, 2, 2, 4], "num_res_blocks": 2, "z_channels": 256}
}
LLAMA: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 2048,
}
"""What ``LlamaConfig`` takes for a number that the file leaves out, as the released 7B does."""

IDS = {2048: (100002, 100581), 4096: (100015, 100594)}
"""Ids of padding and of the image placeholder in the released tokenizers, by width of the model they belong to."""


def read_config(raw: Mapping[str, Any], where: str) -> JanusConfig:
    """Our sizes from a ``config.json`` of model type ``multi_modality``.

    Raises:
      UserError: a number missing, or a part that our modules do not build.
    """
    try:
        text = LLAMA | raw["language_config"]
        vision = _named(raw["vision_config"]["params"], "model_name", TOWERS, where)
        codes = raw["gen_vision_config"]["params"]
        vq = _named({"cls": raw["gen_vision_config"]["cls"], **codes}, "cls", TOKENIZERS, where)
        heads = text["num_attention_heads"]
        cfg = JanusConfig(
            vision=VisionConfig(
                image_size=vision["image_size"],
                patch_size=vision["patch_size"],
                width=vision["width"],
                depth=vision["layers"],
                heads=vision["heads"],
                mlp_dim=round(vision["width"] * vision["mlp_ratio"]),
            ),
            decoder=DecoderConfig(
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
            ),
            image_tokenizer=ImageTokenizerConfig(
                codebook_size=codes["image_token_size"],
                code_dim=codes["n_embed"],
                latent_channels=vq["z_channels"],
                base_channels=vq["ch"],
                channel_multipliers=tuple(vq["ch_mult"]),
                res_blocks=vq["num_res_blocks"],
            ),
            gen_head_dim=raw["gen_head_config"]["params"]["image_token_embed"],
        )
        for part in ("aligner_config", "gen_aligner_config"):
            shape = (raw[part]["params"]["projector_type"], raw[part]["params"]["depth"])
            if shape != ("mlp_gelu", 2):
                raise UserError(
                    f"config.json in {where!r} has a {part} {shape}; this program builds ('mlp_gelu', 2)"
                )
    except KeyError as error:
        raise UserError(
            f"config.json in {where!r} lacks {error}; take the file of the original checkpoint"
        ) from None
    except (TypeError, AttributeError) as error:
        raise UserError(
            f"config.json in {where!r} has a value of another type ({error}); take the file of the original checkpoint"
        ) from None
    return cfg


def image_token_id(raw: Mapping[str, Any], pad_id: int, image_id: int) -> int:
    """The id of the image placeholder that the weights know, as far as this layout tells: its ``config.json`` holds no
    ids, so only the tokenizer of the other released size is told apart from the right one."""
    width = (LLAMA | raw["language_config"])["hidden_size"]
    foreign = (pad_id, image_id) in [ids for of, ids in IDS.items() if of != width]
    return IDS[width][1] if foreign and width in IDS else image_id


def _named(
    params: Mapping[str, Any], key: str, known: Mapping[str, Mapping[str, Any]], where: str
) -> dict[str, Any]:
    """The sizes that a name stands for, under those that are given."""
    name = params[key]
    sizes = next(iter(known.values()))
    if name not in known and not sizes.keys() <= params.keys():
        raise UserError(
            f"config.json in {where!r} names {key}={name!r}; expected {', '.join(known)}, or all its sizes beside it "
            f"({', '.join(sizes)})"
        )
    return {**known.get(name, {}), **params}


def write_config(cfg: JanusConfig, dtype: str) -> dict[str, Any]:
    """The ``config.json`` of ``cfg``; equal to the released file's content where the sizes are the released ones."""
    d, v, t = cfg.decoder, cfg.vision, cfg.image_tokenizer
    tower = {
        "image_size": v.image_size,
        "patch_size": v.patch_size,
        "width": v.width,
        "layers": v.depth,
        "heads": v.heads,
        "mlp_ratio": v.mlp_dim / v.width,
    }
    vq = {
        "ch": t.base_channels,
        "ch_mult": list(t.channel_multipliers),
        "num_res_blocks": t.res_blocks,
        "z_channels": t.latent_channels,
    }
    named_tower = {"image_size": v.image_size} if tower == TOWERS[SIGLIP] else tower
    return {
        "architectures": ["MultiModalityCausalLM"],
        "model_type": "multi_modality",
        "torch_dtype": dtype,
        "aligner_config": _projector("aligner", v.width, d.width),
        "gen_aligner_config": _projector("gen_aligner", t.code_dim, d.width),
        "gen_head_config": {
            "cls": "vision_head",
            "model_type": "gen_head",
            "params": {
                "image_token_embed": cfg.gen_head_dim,
                "image_token_size": t.codebook_size,
                "n_embed": d.width,
            },
        },
        "gen_vision_config": {
            "cls": VQ,
            "model_type": "gen_vision",
            "params": {
                "image_token_size": t.codebook_size,
                "n_embed": t.code_dim,
                **({} if vq == TOKENIZERS[VQ] else vq),
            },
        },
        "language_config": {
            "model_type": "llama",
            "vocab_size": d.vocab_size,
            "hidden_size": d.width,
            "intermediate_size": d.mlp_dim,
            "num_hidden_layers": d.depth,
            "num_attention_heads": d.heads,
            "num_key_value_heads": d.kv_heads,
            "head_dim": d.head_size,
            "rms_norm_eps": d.norm_eps,
            "rope_theta": d.rope_theta,
            "max_position_embeddings": d.max_length,
            "torch_dtype": dtype,
        },
        "vision_config": {
            "cls": "CLIPVisionTower",
            "model_type": "vision",
            "params": {
                "model_name": SIGLIP,
                "select_feature": "same",
                "select_layer": -1,
                **named_tower,
            },
        },
    }


def _projector(kind: str, inputs: int, outputs: int) -> dict[str, Any]:
    params = {"depth": 2, "input_dim": inputs, "n_embed": outputs, "projector_type": "mlp_gelu"}
    return {"cls": "MlpProjector", "model_type": kind, "params": params}
