"""CLIP folders of transformers and of open_clip: tensor names, and the reward model spec.

transformers writes ``config.json`` and ``model*.safetensors`` or ``pytorch_model*.bin``; open_clip
writes ``open_clip_config.json`` and ``open_clip*.safetensors`` or ``open_clip_pytorch_model*.bin``.
A folder may hold both.
"""

from __future__ import annotations

import dataclasses
import pathlib

from corl_jax.core.errors import UserError
from corl_jax.porting.rules import CONV, LINEAR, TensorRule
from corl_jax.reward_models.base import RewardModelSpec
from corl_jax.reward_models.clip.config import read_open_clip_config, read_transformers_config
from corl_jax.reward_models.clip.model import Clip, ClipConfig, TowerConfig


def _norm(tensor: str, path: str) -> tuple[TensorRule, TensorRule]:
    return (
        TensorRule(f"{tensor}.weight", f"{path}/scale"),
        TensorRule(f"{tensor}.bias", f"{path}/bias"),
    )


def _linear(tensor: str, path: str) -> tuple[TensorRule, TensorRule]:
    return (
        TensorRule(f"{tensor}.weight", f"{path}/kernel", LINEAR),
        TensorRule(f"{tensor}.bias", f"{path}/bias"),
    )


def _transformers_blocks(tower: str, path: str) -> tuple[TensorRule, ...]:
    """The blocks of one tower, which are ``path/layers`` here."""
    layer = f"{tower}.encoder.layers.{{layer}}"
    return (
        # Attention.
        *_linear(f"{layer}.self_attn.q_proj", f"{path}/layers/q_proj"),
        *_linear(f"{layer}.self_attn.k_proj", f"{path}/layers/k_proj"),
        *_linear(f"{layer}.self_attn.v_proj", f"{path}/layers/v_proj"),
        *_linear(f"{layer}.self_attn.out_proj", f"{path}/layers/o_proj"),
        # MLP and norms.
        *_linear(f"{layer}.mlp.fc1", f"{path}/layers/fc1"),
        *_linear(f"{layer}.mlp.fc2", f"{path}/layers/fc2"),
        *_norm(f"{layer}.layer_norm1", f"{path}/layers/norm1"),
        *_norm(f"{layer}.layer_norm2", f"{path}/layers/norm2"),
    )


def _open_clip_blocks(tower: str, path: str) -> tuple[TensorRule, ...]:
    """The same for open_clip, which has queries, keys and values in one tensor."""
    layer = f"{tower}.resblocks.{{layer}}"
    fused_parts = {"q_proj": (0, 3), "k_proj": (1, 3), "v_proj": (2, 3)}

    return (
        # Attention.
        *(
            TensorRule(f"{layer}.attn.in_proj_weight", f"{path}/layers/{proj}/kernel", LINEAR, part)
            for proj, part in fused_parts.items()
        ),
        *(
            TensorRule(f"{layer}.attn.in_proj_bias", f"{path}/layers/{proj}/bias", part=part)
            for proj, part in fused_parts.items()
        ),
        *_linear(f"{layer}.attn.out_proj", f"{path}/layers/o_proj"),
        # MLP and norms.
        *_linear(f"{layer}.mlp.c_fc", f"{path}/layers/fc1"),
        *_linear(f"{layer}.mlp.c_proj", f"{path}/layers/fc2"),
        *_norm(f"{layer}.ln_1", f"{path}/layers/norm1"),
        *_norm(f"{layer}.ln_2", f"{path}/layers/norm2"),
    )


TRANSFORMERS_RULES = (
    # Image tower.
    TensorRule("vision_model.embeddings.class_embedding", "image/class_token"),
    TensorRule("vision_model.embeddings.patch_embedding.weight", "image/patch_embed/kernel", CONV),
    TensorRule("vision_model.embeddings.position_embedding.weight", "image/position"),
    # The misspelling "layrnorm" is in every checkpoint.
    *_norm("vision_model.pre_layrnorm", "image/norm_pre"),
    *_transformers_blocks("vision_model", "image"),
    *_norm("vision_model.post_layernorm", "image/norm_post"),
    TensorRule("visual_projection.weight", "image/project/kernel", LINEAR),
    # Text tower.
    TensorRule("text_model.embeddings.token_embedding.weight", "text/token"),
    TensorRule("text_model.embeddings.position_embedding.weight", "text/position"),
    *_transformers_blocks("text_model", "text"),
    *_norm("text_model.final_layer_norm", "text/norm"),
    TensorRule("text_projection.weight", "text/project/kernel", LINEAR),
)

OPEN_CLIP_RULES = (
    # Image tower. Unlike in transformers, both projections are stored as [in, out].
    TensorRule("visual.class_embedding", "image/class_token"),
    TensorRule("visual.conv1.weight", "image/patch_embed/kernel", CONV),
    TensorRule("visual.positional_embedding", "image/position"),
    *_norm("visual.ln_pre", "image/norm_pre"),
    *_open_clip_blocks("visual.transformer", "image"),
    *_norm("visual.ln_post", "image/norm_post"),
    TensorRule("visual.proj", "image/project/kernel"),
    # Text tower.
    TensorRule("token_embedding.weight", "text/token"),
    TensorRule("positional_embedding", "text/position"),
    *_open_clip_blocks("transformer", "text"),
    *_norm("ln_final", "text/norm"),
    TensorRule("text_projection", "text/project/kernel"),
)


def choose_clip_layout(folder: pathlib.Path) -> RewardModelSpec:
    """The layout whose config ``folder`` has; where it has both, the one that it has weights of.

    Raises:
      UserError: the folder has neither config.
    """
    layouts = [
        layout
        for layout in (TRANSFORMERS, OPEN_CLIP)
        if (folder / str(layout.config_file)).is_file()
    ]

    if not layouts:
        raise UserError(
            f"{str(folder)!r} must hold {TRANSFORMERS.config_file} or {OPEN_CLIP.config_file}; got "
            "neither. Name the folder of a CLIP, as transformers or open_clip publish it"
        )

    # Usually one; with both configs, the weights decide.
    for layout in layouts:
        if any(any(folder.glob(pattern)) for pattern in layout.weight_files):
            return layout
    return layouts[0]


TRANSFORMERS = RewardModelSpec(
    name="CLIP model",
    build_module=Clip,
    # The vocabulary of ``byte_vocabulary``, with some ids to spare.
    tiny_config=ClipConfig(
        image=TowerConfig(32, 2, 2, 32),
        text=TowerConfig(32, 2, 2, 32),
        image_size=32,
        patch_size=16,
        vocab_size=520,
        context=77,
        features=32,
    ),
    # ViT-H/14.
    full_config=ClipConfig(
        image=TowerConfig(1280, 32, 16, 5120),
        text=TowerConfig(1024, 24, 16, 4096),
        image_size=224,
        patch_size=14,
        vocab_size=49408,
        context=77,
        features=1024,
    ),
    read_config=read_transformers_config,
    rules=TRANSFORMERS_RULES,
    hub_id="laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    download_gb=3.9,
    # A cosine does not use the scale of the logits.
    unused_tensors=("logit_scale", "*.embeddings.position_ids"),
    weight_files=("model*.safetensors", "pytorch_model*.bin"),
)
OPEN_CLIP = dataclasses.replace(
    TRANSFORMERS,
    read_config=read_open_clip_config,
    rules=OPEN_CLIP_RULES,
    config_file="open_clip_config.json",
    weight_files=("open_clip*.safetensors", "open_clip_pytorch_model*.bin"),
)
# The patterns find the weights of either layout on the hub.
CLIP = dataclasses.replace(
    TRANSFORMERS,
    weight_files=(
        "model*.safetensors",
        "open_clip*.safetensors",
        "pytorch_model*.bin",
        "open_clip_pytorch_model*.bin",
    ),
    other_config_files=(str(OPEN_CLIP.config_file),),
    choose_layout=choose_clip_layout,
)
"""CLIP ViT-H/14 in either layout; ``choose_clip_layout`` looks which one a folder has."""
