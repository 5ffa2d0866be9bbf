"""Tables of parameter names for the unified model: the transformers layout and the original one.

Compatible with ``deepseek-community/Janus-Pro-*`` (transformers 5) and ``deepseek-ai/Janus-Pro-*``, ``Janus-1.3B``.
"""

from __future__ import annotations

from corl_jax.porting.rules import CONV, FIRST, LINEAR, SAME, Layout, Rule

Part = tuple[int, int]


def _affine(foreign: str, ours: str, layout: Layout = LINEAR, part: Part = (0, 1)) -> list[Rule]:
    return [
        Rule(f"{foreign}.weight", f"{ours}/kernel", layout, part),
        Rule(f"{foreign}.bias", f"{ours}/bias", SAME, part),
    ]


def _norm(foreign: str, ours: str) -> list[Rule]:
    return [Rule(f"{foreign}.weight", f"{ours}/scale"), Rule(f"{foreign}.bias", f"{ours}/bias")]


def _language_model(trunk: str, head: str) -> list[Rule]:
    layer, ours = f"{trunk}.layers.{{layer}}", "language_model/layers"
    rules = [
        Rule(f"{trunk}.embed_tokens.weight", "language_model/embed/embedding"),
        Rule(f"{trunk}.norm.weight", "language_model/norm/scale"),
        Rule(f"{head}.weight", "language_model/lm_head/kernel", LINEAR),
        Rule(f"{layer}.input_layernorm.weight", f"{ours}/input_norm/scale"),
        Rule(f"{layer}.post_attention_layernorm.weight", f"{ours}/mlp_norm/scale"),
    ]
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        rules.append(
            Rule(f"{layer}.self_attn.{name}.weight", f"{ours}/attention/{name}/kernel", LINEAR)
        )
    for name in ("gate_proj", "up_proj", "down_proj"):
        rules.append(Rule(f"{layer}.mlp.{name}.weight", f"{ours}/{name}/kernel", LINEAR))
    return rules


def _vision_transformers() -> list[Rule]:
    tower, ours = "model.vision_model", "vision_model/layers"
    layer = f"{tower}.encoder.layers.{{layer}}"
    rules = [
        *_affine(f"{tower}.embeddings.patch_embedding", "vision_model/patch_embed", CONV),
        Rule(f"{tower}.embeddings.position_embedding.weight", "vision_model/position"),
        *_norm(f"{tower}.post_layernorm", "vision_model/norm"),
        *_norm(f"{layer}.layer_norm1", f"{ours}/norm1"),
        *_norm(f"{layer}.layer_norm2", f"{ours}/norm2"),
        *_affine(f"{layer}.self_attn.projection_layer", f"{ours}/o_proj"),
    ]
    for name in ("q_proj", "k_proj", "v_proj"):
        rules += _affine(f"{layer}.self_attn.{name}", f"{ours}/{name}")
    return rules + _vision_mlp(layer)


def _vision_original() -> list[Rule]:
    tower, ours = "vision_model.vision_tower", "vision_model/layers"
    layer = f"{tower}.blocks.{{layer}}"
    rules = [
        *_affine(f"{tower}.patch_embed.proj", "vision_model/patch_embed", CONV),
        Rule(f"{tower}.pos_embed", "vision_model/position", FIRST),
        *_norm(f"{tower}.norm", "vision_model/norm"),
        *_norm(f"{layer}.norm1", f"{ours}/norm1"),
        *_norm(f"{layer}.norm2", f"{ours}/norm2"),
        *_affine(f"{layer}.attn.proj", f"{ours}/o_proj"),
    ]
    for i, name in enumerate(("q_proj", "k_proj", "v_proj")):
        rules += _affine(f"{layer}.attn.qkv", f"{ours}/{name}", part=(i, 3))
    return rules + _vision_mlp(layer)


def _vision_mlp(layer: str) -> list[Rule]:
    return [
        rule
        for name in ("fc1", "fc2")
        for rule in _affine(f"{layer}.mlp.{name}", f"vision_model/layers/{name}")
    ]


def _image_tokenizer(
    vq: str, middle: tuple[str, str, str], levels: dict[str, str], block: str
) -> list[Rule]:
    """``middle``: the residual, attention and residual block; ``levels`` and ``block``: what those lists are called."""
    ours = "image_tokenizer"
    rules = [Rule(f"{vq}.quantize.embedding.weight", f"{ours}/quantize/embedding")]
    pairs: list[tuple[str, str]] = [(name, name) for name in ("quant_conv", "post_quant_conv")]
    norms: list[tuple[str, str]] = []
    for half, mine, resize in (("encoder", "down", "downsample"), ("decoder", "up", "upsample")):
        theirs = f"{half}.{levels[half]}.{{i}}"
        pairs += [(f"{half}.{name}", f"{half}.{name}") for name in ("conv_in", "conv_out")]
        pairs.append((f"{theirs}.{resize}.conv", f"{half}.{mine}.{{i}}.{resize}.conv"))
        norms.append((f"{half}.norm_out", f"{half}.norm_out"))
        first, attention, second = (f"{half}.mid.{name}" for name in middle)
        residual = [
            (first, f"{half}.mid.block_1"),
            (second, f"{half}.mid.block_2"),
            (f"{theirs}.{block}.{{j}}", f"{half}.{mine}.{{i}}.block.{{j}}"),
        ]
        for foreign, own in residual:
            norms += [(f"{foreign}.{name}", f"{own}.{name}") for name in ("norm1", "norm2")]
            pairs += [
                (f"{foreign}.{name}", f"{own}.{name}")
                for name in ("conv1", "conv2", "nin_shortcut")
            ]
        attending = [
            (attention, f"{half}.mid.attn_1"),
            (f"{theirs}.attn.{{j}}", f"{half}.{mine}.{{i}}.attn.{{j}}"),
        ]
        for foreign, own in attending:
            norms.append((f"{foreign}.norm", f"{own}.norm"))
            pairs += [
                (f"{foreign}.{name}", f"{own}.{name}") for name in ("q", "k", "v", "proj_out")
            ]
    for foreign, own in pairs:
        rules += _affine(f"{vq}.{foreign}", f"{ours}/{own.replace('.', '/')}", CONV)
    for foreign, own in norms:
        rules += _norm(f"{vq}.{foreign}", f"{ours}/{own.replace('.', '/')}")
    return rules


TRANSFORMERS: tuple[Rule, ...] = (
    *_language_model("model.language_model", "lm_head"),
    *_vision_transformers(),
    *_affine("model.aligner.fc1", "aligner/fc1"),
    *_affine("model.aligner.hidden_layers.0", "aligner/fc2"),
    *_affine("model.generation_aligner.fc1", "gen_aligner/fc1"),
    *_affine("model.generation_aligner.hidden_layers.0", "gen_aligner/fc2"),
    *_affine("model.generation_head.proj_out", "gen_head/fc1"),
    *_affine("model.generation_head.vision_head", "gen_head/fc2"),
    Rule("model.generation_embeddings.weight", "gen_embed/embedding"),
    *_image_tokenizer(
        "model.vqmodel",
        ("block_1", "attn_1", "block_2"),
        {"encoder": "down", "decoder": "up"},
        "block",
    ),
)
"""Every parameter of the model, in the transformers layout."""

ORIGINAL: tuple[Rule, ...] = (
    *_language_model("language_model.model", "language_model.lm_head"),
    *_vision_original(),
    *_affine("aligner.layers.0", "aligner/fc1"),
    *_affine("aligner.layers.2", "aligner/fc2"),
    *_affine("gen_aligner.layers.0", "gen_aligner/fc1"),
    *_affine("gen_aligner.layers.2", "gen_aligner/fc2"),
    *_affine("gen_head.output_mlp_projector", "gen_head/fc1"),
    *_affine("gen_head.vision_head", "gen_head/fc2"),
    Rule("gen_embed.weight", "gen_embed/embedding"),
    *_image_tokenizer(
        "gen_vision_model",
        ("0", "1", "2"),
        {"encoder": "conv_blocks", "decoder": "conv_blocks"},
        "res",
    ),
)
"""Every parameter of the model, in the original layout."""

ORIGINAL_UNUSED: tuple[str, ...] = (
    "vision_model.vision_tower.attn_pool.*",  # a pooling head that is built and never called
    "gen_vision_model.quantize.codebook_used",  # bookkeeping of the tokenizer's training
)
"""Tensors of the original layout that no computation reads."""
