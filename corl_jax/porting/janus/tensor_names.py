"""Tables of tensor names for Janus: the transformers layout and the original layout.

Compatible with ``deepseek-community/Janus-Pro-*`` (transformers 5), and with
``deepseek-ai/Janus-Pro-*`` and ``deepseek-ai/Janus-1.3B``.
"""

from __future__ import annotations

from corl_jax.porting.rules import CONV, IDENTITY, LINEAR, SQUEEZE_FIRST, TensorLayout, TensorRule

Part = tuple[int, int]
"""``(i, n)``: the ``i``-th of ``n`` parts of a fused tensor."""


def _affine(
    tensor: str, param: str, layout: TensorLayout = LINEAR, part: Part = (0, 1)
) -> list[TensorRule]:
    """Weight and bias of a linear or convolutional layer."""
    return [
        TensorRule(f"{tensor}.weight", f"{param}/kernel", layout, part),
        TensorRule(f"{tensor}.bias", f"{param}/bias", IDENTITY, part),
    ]


def _norm(tensor: str, param: str) -> list[TensorRule]:
    """Weight and bias of a normalization layer."""
    return [
        TensorRule(f"{tensor}.weight", f"{param}/scale"),
        TensorRule(f"{tensor}.bias", f"{param}/bias"),
    ]


def _language_model(trunk: str, head: str) -> list[TensorRule]:
    """The decoder, which both layouts name alike below ``trunk``."""
    layer, layer_param = f"{trunk}.layers.{{layer}}", "language_model/layers"
    rules = [
        TensorRule(f"{trunk}.embed_tokens.weight", "language_model/embed/embedding"),
        TensorRule(f"{trunk}.norm.weight", "language_model/norm/scale"),
        TensorRule(f"{head}.weight", "language_model/lm_head/kernel", LINEAR),
        TensorRule(f"{layer}.input_layernorm.weight", f"{layer_param}/input_norm/scale"),
        TensorRule(f"{layer}.post_attention_layernorm.weight", f"{layer_param}/mlp_norm/scale"),
    ]

    # The decoder's linear layers have no bias.
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        tensor, param = f"{layer}.self_attn.{name}", f"{layer_param}/attention/{name}"
        rules.append(TensorRule(f"{tensor}.weight", f"{param}/kernel", LINEAR))
    for name in ("gate_proj", "up_proj", "down_proj"):
        tensor, param = f"{layer}.mlp.{name}", f"{layer_param}/{name}"
        rules.append(TensorRule(f"{tensor}.weight", f"{param}/kernel", LINEAR))
    return rules


def _vision_transformers() -> list[TensorRule]:
    tower, layer_param = "model.vision_model", "vision_model/layers"
    layer = f"{tower}.encoder.layers.{{layer}}"
    rules = [
        *_affine(f"{tower}.embeddings.patch_embedding", "vision_model/patch_embed", CONV),
        TensorRule(f"{tower}.embeddings.position_embedding.weight", "vision_model/position"),
        *_norm(f"{tower}.post_layernorm", "vision_model/norm"),
        *_norm(f"{layer}.layer_norm1", f"{layer_param}/norm1"),
        *_norm(f"{layer}.layer_norm2", f"{layer_param}/norm2"),
        *_affine(f"{layer}.self_attn.projection_layer", f"{layer_param}/o_proj"),
    ]
    # Here query, key and value are separate, as in the parameters.
    for name in ("q_proj", "k_proj", "v_proj"):
        rules += _affine(f"{layer}.self_attn.{name}", f"{layer_param}/{name}")
    return rules + _vision_mlp(layer)


def _vision_original() -> list[TensorRule]:
    tower, layer_param = "vision_model.vision_tower", "vision_model/layers"
    layer = f"{tower}.blocks.{{layer}}"
    rules = [
        *_affine(f"{tower}.patch_embed.proj", "vision_model/patch_embed", CONV),
        TensorRule(f"{tower}.pos_embed", "vision_model/position", SQUEEZE_FIRST),
        *_norm(f"{tower}.norm", "vision_model/norm"),
        *_norm(f"{layer}.norm1", f"{layer_param}/norm1"),
        *_norm(f"{layer}.norm2", f"{layer_param}/norm2"),
        *_affine(f"{layer}.attn.proj", f"{layer_param}/o_proj"),
    ]

    # The original code fuses query, key and value in one tensor.
    for i, name in enumerate(("q_proj", "k_proj", "v_proj")):
        rules += _affine(f"{layer}.attn.qkv", f"{layer_param}/{name}", part=(i, 3))
    return rules + _vision_mlp(layer)


def _vision_mlp(layer: str) -> list[TensorRule]:
    """The MLP of a vision layer, which both layouts name alike."""
    return [
        rule
        for name in ("fc1", "fc2")
        for rule in _affine(f"{layer}.mlp.{name}", f"vision_model/layers/{name}")
    ]


def _image_tokenizer(
    vq: str, middle: tuple[str, str, str], levels: dict[str, str], block: str
) -> list[TensorRule]:
    """Encoder, codebook and decoder of the image tokenizer.

    Args:
      vq: name of the image tokenizer.
      middle: names of the residual, attention and residual block after the encoder's levels and
        before the decoder's.
      levels: for ``encoder`` and ``decoder`` the name of their list of levels.
      block: name of the list of residual blocks of a level.
    """
    rules = [TensorRule(f"{vq}.quantize.embedding.weight", "image_tokenizer/quantize/embedding")]

    # Pairs of (name in the checkpoint, parameter path with dots).
    convs: list[tuple[str, str]] = [(name, name) for name in ("quant_conv", "post_quant_conv")]
    norms: list[tuple[str, str]] = []

    for half, param_levels, resize in (
        ("encoder", "down", "downsample"),
        ("decoder", "up", "upsample"),
    ):
        # Between levels the encoder halves the resolution and the decoder doubles it.
        level, param_level = f"{half}.{levels[half]}.{{i}}", f"{half}.{param_levels}.{{i}}"
        convs += [(f"{half}.{name}", f"{half}.{name}") for name in ("conv_in", "conv_out")]
        convs.append((f"{level}.{resize}.conv", f"{param_level}.{resize}.conv"))
        norms.append((f"{half}.norm_out", f"{half}.norm_out"))

        # Residual blocks: two in the middle, and one list per level.
        first, attention, second = (f"{half}.mid.{name}" for name in middle)
        residual_blocks = [
            (first, f"{half}.mid.block_1"),
            (second, f"{half}.mid.block_2"),
            (f"{level}.{block}.{{j}}", f"{param_level}.block.{{j}}"),
        ]
        for tensor, param in residual_blocks:
            for name in ("norm1", "norm2"):
                norms.append((f"{tensor}.{name}", f"{param}.{name}"))
            for name in ("conv1", "conv2", "nin_shortcut"):
                convs.append((f"{tensor}.{name}", f"{param}.{name}"))

        # Attention blocks: one in the middle, and one list in the levels of low resolution.
        attention_blocks = [
            (attention, f"{half}.mid.attn_1"),
            (f"{level}.attn.{{j}}", f"{param_level}.attn.{{j}}"),
        ]
        for tensor, param in attention_blocks:
            norms.append((f"{tensor}.norm", f"{param}.norm"))
            for name in ("q", "k", "v", "proj_out"):
                convs.append((f"{tensor}.{name}", f"{param}.{name}"))

    # Every layer is a convolution, attention projections included.
    for tensor, param in convs:
        rules += _affine(f"{vq}.{tensor}", f"image_tokenizer/{param.replace('.', '/')}", CONV)
    for tensor, param in norms:
        rules += _norm(f"{vq}.{tensor}", f"image_tokenizer/{param.replace('.', '/')}")
    return rules


TRANSFORMERS: tuple[TensorRule, ...] = (
    # Understanding: language model, vision tower and its aligner.
    *_language_model("model.language_model", "lm_head"),
    *_vision_transformers(),
    *_affine("model.aligner.fc1", "aligner/fc1"),
    *_affine("model.aligner.hidden_layers.0", "aligner/fc2"),
    # Generation: embeddings of image tokens, their aligner, the image head and the image tokenizer.
    *_affine("model.generation_aligner.fc1", "gen_aligner/fc1"),
    *_affine("model.generation_aligner.hidden_layers.0", "gen_aligner/fc2"),
    *_affine("model.generation_head.proj_out", "gen_head/fc1"),
    *_affine("model.generation_head.vision_head", "gen_head/fc2"),
    TensorRule("model.generation_embeddings.weight", "gen_embed/embedding"),
    *_image_tokenizer(
        "model.vqmodel",
        ("block_1", "attn_1", "block_2"),
        {"encoder": "down", "decoder": "up"},
        "block",
    ),
)
"""Every parameter of the model, in the transformers layout."""

ORIGINAL: tuple[TensorRule, ...] = (
    # Understanding; the aligners are torch.nn.Sequential, in which 1 is the activation.
    *_language_model("language_model.model", "language_model.lm_head"),
    *_vision_original(),
    *_affine("aligner.layers.0", "aligner/fc1"),
    *_affine("aligner.layers.2", "aligner/fc2"),
    # Generation.
    *_affine("gen_aligner.layers.0", "gen_aligner/fc1"),
    *_affine("gen_aligner.layers.2", "gen_aligner/fc2"),
    *_affine("gen_head.output_mlp_projector", "gen_head/fc1"),
    *_affine("gen_head.vision_head", "gen_head/fc2"),
    TensorRule("gen_embed.weight", "gen_embed/embedding"),
    *_image_tokenizer(
        "gen_vision_model",
        ("0", "1", "2"),
        {"encoder": "conv_blocks", "decoder": "conv_blocks"},
        "res",
    ),
)
"""Every parameter of the model, in the original layout."""

ORIGINAL_UNUSED: tuple[str, ...] = (
    "vision_model.vision_tower.attn_pool.*",  # a pooling head that the code builds and never calls
    "gen_vision_model.quantize.codebook_used",  # statistics of the tokenizer's training
)
"""Tensors of the original layout that no computation reads."""
