"""The original layout, written from its description and not from the table that is tested."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

from corl_jax.models.janus.config import JanusConfig

NAME_PATTERNS = (
    (r"model\.language_model\.(.*)", r"language_model.model.\1"),
    (
        r"model\.vision_model\.embeddings\.patch_embedding\.(.*)",
        r"vision_model.vision_tower.patch_embed.proj.\1",
    ),
    (
        r"model\.vision_model\.embeddings\.position_embedding\.weight",
        "vision_model.vision_tower.pos_embed",
    ),
    (r"model\.vision_model\.post_layernorm\.(.*)", r"vision_model.vision_tower.norm.\1"),
    (
        r"model\.vision_model\.encoder\.layers\.(\d+)\.layer_norm(\d\..*)",
        r"vision_model.vision_tower.blocks.\1.norm\2",
    ),
    (
        r"model\.vision_model\.encoder\.layers\.(\d+)\.self_attn\.projection_layer\.(.*)",
        r"vision_model.vision_tower.blocks.\1.attn.proj.\2",
    ),
    (
        r"model\.vision_model\.encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(.*)",
        r"vision_model.vision_tower.blocks.\1.attn.\2.\3",
    ),
    (
        r"model\.vision_model\.encoder\.layers\.(\d+)\.mlp\.(.*)",
        r"vision_model.vision_tower.blocks.\1.mlp.\2",
    ),
    (r"model\.(aligner)\.fc1\.(.*)", r"\1.layers.0.\2"),
    (r"model\.(aligner)\.hidden_layers\.0\.(.*)", r"\1.layers.2.\2"),
    (r"model\.generation_aligner\.fc1\.(.*)", r"gen_aligner.layers.0.\1"),
    (r"model\.generation_aligner\.hidden_layers\.0\.(.*)", r"gen_aligner.layers.2.\1"),
    (r"model\.generation_head\.proj_out\.(.*)", r"gen_head.output_mlp_projector.\1"),
    (r"model\.generation_head\.vision_head\.(.*)", r"gen_head.vision_head.\1"),
    (r"model\.generation_embeddings\.(.*)", r"gen_embed.\1"),
    (
        r"model\.vqmodel\.encoder\.down\.(\d+)\.block\.(.*)",
        r"gen_vision_model.encoder.conv_blocks.\1.res.\2",
    ),
    (r"model\.vqmodel\.encoder\.down\.(.*)", r"gen_vision_model.encoder.conv_blocks.\1"),
    (
        r"model\.vqmodel\.decoder\.up\.(\d+)\.block\.(.*)",
        r"gen_vision_model.decoder.conv_blocks.\1.res.\2",
    ),
    (r"model\.vqmodel\.decoder\.up\.(.*)", r"gen_vision_model.decoder.conv_blocks.\1"),
    (r"model\.vqmodel\.(\w+)\.mid\.block_1\.(.*)", r"gen_vision_model.\1.mid.0.\2"),
    (r"model\.vqmodel\.(\w+)\.mid\.attn_1\.(.*)", r"gen_vision_model.\1.mid.1.\2"),
    (r"model\.vqmodel\.(\w+)\.mid\.block_2\.(.*)", r"gen_vision_model.\1.mid.2.\2"),
    (r"model\.vqmodel\.(.*)", r"gen_vision_model.\1"),
    (r"lm_head\.weight", "language_model.lm_head.weight"),
)


def original_name(name: str) -> str:
    """The original name of a tensor of the transformers layout, before q, k and v are fused."""
    for pattern, replacement in NAME_PATTERNS:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    raise AssertionError(name)


def to_original(torch: Any, state: dict[str, Any]) -> dict[str, Any]:
    """A state dict of the transformers layout in the original one, with its unused tensors."""
    out = {original_name(name): tensor for name, tensor in state.items()}

    # The original has an axis of size 1 before the positions.
    position = "vision_model.vision_tower.pos_embed"
    out[position] = out[position][None]

    # Query, key and value of the vision tower are fused.
    query_names = [
        name
        for name in out
        if re.search(r"\.attn\.q\.(weight|bias)$", name) and "vision_tower" in name
    ]
    for name in query_names:
        parts = [out.pop(name.replace(".attn.q.", f".attn.{part}.")) for part in "qkv"]
        out[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat(parts)

    # Tensors that no computation reads.
    width = out[position].shape[-1]
    latent = torch.arange(width, dtype=torch.float32).reshape(1, 1, width)
    out["vision_model.vision_tower.attn_pool.latent"] = latent
    out["gen_vision_model.quantize.codebook_used"] = torch.zeros(7)
    return {name: tensor.contiguous().clone() for name, tensor in out.items()}


def original_config(cfg: JanusConfig) -> dict[str, Any]:
    """``config.json`` as the original code writes it, with sizes next to the names of the parts."""
    d, v, t = cfg.decoder, cfg.vision, cfg.image_tokenizer

    def aligner(inputs: int) -> dict[str, Any]:
        return {
            "params": {
                "depth": 2,
                "input_dim": inputs,
                "n_embed": d.width,
                "projector_type": "mlp_gelu",
            }
        }

    return {
        "model_type": "multi_modality",
        "torch_dtype": "float32",
        "aligner_config": aligner(v.width),
        "gen_aligner_config": aligner(t.code_dim),
        "gen_head_config": {
            "params": {"image_token_embed": cfg.gen_head_dim, "image_token_size": t.codebook_size}
        },
        "gen_vision_config": {
            "cls": "VQ-16",
            "params": {
                "image_token_size": t.codebook_size,
                "n_embed": t.code_dim,
                "ch": t.base_channels,
                "ch_mult": list(t.channel_multipliers),
                "num_res_blocks": t.res_blocks,
                "z_channels": t.latent_channels,
            },
        },
        "language_config": {
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
        },
        "vision_config": {
            "cls": "CLIPVisionTower",
            "params": {
                "model_name": "small",
                "select_layer": -1,
                "image_size": v.image_size,
                "patch_size": v.patch_size,
                "width": v.width,
                "layers": v.depth,
                "heads": v.heads,
                "mlp_ratio": v.mlp_dim / v.width,
            },
        },
    }


def write_original(folder: pathlib.Path, cfg: JanusConfig, tokenizer_folder: pathlib.Path) -> None:
    """Writes a folder in the original layout without its weights."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(original_config(cfg)), "utf-8")
    for file in tokenizer_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
