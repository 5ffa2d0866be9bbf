"""Tables for the unified model in the transformers layout, and its ``config.json``.

Compatible with ``JanusForConditionalGeneration`` (transformers 5): names and shapes as in
``deepseek-community/Janus-Pro-*``.
"""

from __future__ import annotations

import math
from typing import Any

from corl_jax.core.errors import UserError
from corl_jax.models.config import DecoderConfig, ImageTokenizerConfig, JanusConfig, VisionConfig
from corl_jax.porting.mapping import CONV, LINEAR, Rule


def _affine(foreign: str, ours: str, layout=LINEAR) -> list[Rule]:
    return [Rule(f"{foreign}.weight", f"{ours}/kernel", layout), Rule(f"{foreign}.bias", f"{ours}/bias")]


def _norm(foreign: str, ours: str) -> list[Rule]:
    return [Rule(f"{foreign}.weight", f"{ours}/scale"), Rule(f"{foreign}.bias", f"{ours}/bias")]


def _language_model() -> list[Rule]:
    layer, ours = "model.language_model.layers.{layer}", "language_model/layers"
    rules = [
        Rule("model.language_model.embed_tokens.weight", "language_model/embed/embedding"),
        Rule("model.language_model.norm.weight", "language_model/norm/scale"),
        Rule("lm_head.weight", "language_model/lm_head/kernel", LINEAR),
        Rule(f"{layer}.input_layernorm.weight", f"{ours}/input_norm/scale"),
        Rule(f"{layer}.post_attention_layernorm.weight", f"{ours}/mlp_norm/scale"),
    ]
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        rules.append(Rule(f"{layer}.self_attn.{name}.weight", f"{ours}/attention/{name}/kernel", LINEAR))
    for name in ("gate_proj", "up_proj", "down_proj"):
        rules.append(Rule(f"{layer}.mlp.{name}.weight", f"{ours}/{name}/kernel", LINEAR))
    return rules


def _vision() -> list[Rule]:
    layer, ours = "model.vision_model.encoder.layers.{layer}", "vision_model/layers"
    rules = [
        *_affine("model.vision_model.embeddings.patch_embedding", "vision_model/patch_embed", CONV),
        Rule("model.vision_model.embeddings.position_embedding.weight", "vision_model/position"),
        *_norm("model.vision_model.post_layernorm", "vision_model/norm"),
        *_norm(f"{layer}.layer_norm1", f"{ours}/norm1"),
        *_norm(f"{layer}.layer_norm2", f"{ours}/norm2"),
        *_affine(f"{layer}.self_attn.projection_layer", f"{ours}/o_proj"),
    ]
    for name in ("q_proj", "k_proj", "v_proj"):
        rules += _affine(f"{layer}.self_attn.{name}", f"{ours}/{name}")
    for name in ("fc1", "fc2"):
        rules += _affine(f"{layer}.mlp.{name}", f"{ours}/{name}")
    return rules


def _heads() -> list[Rule]:
    return [
        *_affine("model.aligner.fc1", "aligner/fc1"),
        *_affine("model.aligner.hidden_layers.0", "aligner/fc2"),
        *_affine("model.generation_aligner.fc1", "gen_aligner/fc1"),
        *_affine("model.generation_aligner.hidden_layers.0", "gen_aligner/fc2"),
        *_affine("model.generation_head.proj_out", "gen_head/fc1"),
        *_affine("model.generation_head.vision_head", "gen_head/fc2"),
        Rule("model.generation_embeddings.weight", "gen_embed/embedding"),
    ]


def _image_tokenizer() -> list[Rule]:
    vq, ours = "model.vqmodel", "image_tokenizer"
    rules = [Rule(f"{vq}.quantize.embedding.weight", f"{ours}/quantize/embedding")]
    convs = ["quant_conv", "post_quant_conv"]
    norms = []
    for half, levels, resize in (("encoder", "down", "downsample"), ("decoder", "up", "upsample")):
        convs += [f"{half}.conv_in", f"{half}.conv_out", f"{half}.{levels}.{{i}}.{resize}.conv"]
        norms.append(f"{half}.norm_out")
        residual = [f"{half}.mid.block_1", f"{half}.mid.block_2", f"{half}.{levels}.{{i}}.block.{{j}}"]
        for block in residual:
            norms += [f"{block}.norm1", f"{block}.norm2"]
            convs += [f"{block}.conv1", f"{block}.conv2", f"{block}.nin_shortcut"]
        for block in (f"{half}.mid.attn_1", f"{half}.{levels}.{{i}}.attn.{{j}}"):
            norms.append(f"{block}.norm")
            convs += [f"{block}.{name}" for name in ("q", "k", "v", "proj_out")]
    for name in convs:
        rules += _affine(f"{vq}.{name}", f"{ours}/{name.replace('.', '/')}", CONV)
    for name in norms:
        rules += _norm(f"{vq}.{name}", f"{ours}/{name.replace('.', '/')}")
    return rules


TRANSFORMERS: tuple[Rule, ...] = (*_language_model(), *_vision(), *_heads(), *_image_tokenizer())
"""Every parameter of the model, in the transformers layout."""


def read_config(raw: dict[str, Any], where: str) -> JanusConfig:
    """Our config from a ``config.json``.

    Raises:
      UserError: not a Janus model, a number missing, or sizes that our modules do not build.
    """
    if not isinstance(raw, dict):
        raise UserError(f"config.json in {where!r} holds a {type(raw).__name__}; expected an object of settings")
    if raw.get("model_type") != "janus":
        raise UserError(f"{where!r} holds a model of type {raw.get('model_type')!r}; expected a 'janus' folder")
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
                head_size=text["head_dim"] if text.get("head_dim") else text["hidden_size"] // heads,
                mlp_dim=text["intermediate_size"],
                norm_eps=text["rms_norm_eps"],
                rope_theta=text["rope_theta"] if "rope_theta" in text else text["rope_parameters"]["rope_theta"],
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
        raise UserError(f"config.json in {where!r} lacks {error}; take the file of the original checkpoint") from None
    except TypeError as error:
        raise UserError(
            f"config.json in {where!r} has a value of another type ({error}); take the file of the original checkpoint"
        ) from None
    for name, got, ours in (
        ("vq_config.double_latent", vq["double_latent"], False),
        ("vision_config.depth", vision["depth"], 2),
        ("vision_config.num_image_tokens", vision["num_image_tokens"], cfg.image_tokens),
    ):
        if got != ours:
            raise UserError(f"config.json in {where!r} has {name}={got!r}; this program builds {ours!r}")
    return cfg


def _ratio(part: int, whole: int) -> float:
    """``part / whole`` such that readers, who multiply and cut off the fraction, get ``part`` back."""
    ratio = part / whole
    while int(whole * ratio) < part:
        ratio = math.nextafter(ratio, math.inf)
    return ratio


def write_config(cfg: JanusConfig, *, image_token_id: int, bos_id: int, eos_id: int, pad_id: int, boi_id: int) -> dict:
    """The ``config.json`` of ``cfg`` for transformers, where ``gen_aligner`` and ``gen_head`` share one width."""
    d, v, t = cfg.decoder, cfg.vision, cfg.image_tokenizer
    if cfg.gen_head_dim != d.width:
        raise UserError(f"gen_head_dim {cfg.gen_head_dim} differs from the width {d.width}; the layout has one number")
    return {
        "architectures": ["JanusForConditionalGeneration"],
        "model_type": "janus",
        "image_token_id": image_token_id,
        "tie_word_embeddings": False,
        "dtype": "float32",
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
        "generation_kwargs": {"boi_token_id": boi_id},
    }
