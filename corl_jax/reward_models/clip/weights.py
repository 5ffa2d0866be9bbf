"""CLIP from a folder of either layout. In: the folder's files; out: what ``base.load_reward_model`` needs to read it.

transformers writes ``config.json`` and ``model*.safetensors`` or ``pytorch_model*.bin``, open_clip
``open_clip_config.json`` and ``open_clip*.safetensors`` or ``open_clip_pytorch_model*.bin``. A folder may hold both.
"""

from __future__ import annotations

import dataclasses
import pathlib

from corl_jax.core.errors import UserError
from corl_jax.porting.rules import CONV, LINEAR, Rule
from corl_jax.reward_models.base import RewardModelSpec
from corl_jax.reward_models.clip.config import read_open_clip, read_transformers
from corl_jax.reward_models.clip.model import Clip, ClipConfig, TowerConfig


def _affine(foreign: str, ours: str) -> tuple[Rule, Rule]:
    """Weight and bias of a norm."""
    return Rule(f"{foreign}.weight", f"{ours}/scale"), Rule(f"{foreign}.bias", f"{ours}/bias")


def _linear(foreign: str, ours: str) -> tuple[Rule, Rule]:
    return Rule(f"{foreign}.weight", f"{ours}/kernel", LINEAR), Rule(
        f"{foreign}.bias", f"{ours}/bias"
    )


def _transformers_blocks(foreign: str, ours: str) -> tuple[Rule, ...]:
    layer = f"{foreign}.encoder.layers.{{layer}}"
    return (
        *(
            rule
            for part in "qkv"
            for rule in _linear(f"{layer}.self_attn.{part}_proj", f"{ours}/layers/{part}_proj")
        ),
        *_linear(f"{layer}.self_attn.out_proj", f"{ours}/layers/o_proj"),
        *(
            rule
            for fc in ("fc1", "fc2")
            for rule in _linear(f"{layer}.mlp.{fc}", f"{ours}/layers/{fc}")
        ),
        *(
            rule
            for i in (1, 2)
            for rule in _affine(f"{layer}.layer_norm{i}", f"{ours}/layers/norm{i}")
        ),
    )


def _open_clip_blocks(foreign: str, ours: str) -> tuple[Rule, ...]:
    layer = f"{foreign}.resblocks.{{layer}}"
    fused = [(f"{ours}/layers/{part}_proj", (i, 3)) for i, part in enumerate("qkv")]
    return (
        *(
            Rule(f"{layer}.attn.in_proj_weight", f"{name}/kernel", LINEAR, part)
            for name, part in fused
        ),
        *(Rule(f"{layer}.attn.in_proj_bias", f"{name}/bias", part=part) for name, part in fused),
        *_linear(f"{layer}.attn.out_proj", f"{ours}/layers/o_proj"),
        *_linear(f"{layer}.mlp.c_fc", f"{ours}/layers/fc1"),
        *_linear(f"{layer}.mlp.c_proj", f"{ours}/layers/fc2"),
        *(rule for i in (1, 2) for rule in _affine(f"{layer}.ln_{i}", f"{ours}/layers/norm{i}")),
    )


TRANSFORMERS_RULES = (
    Rule("vision_model.embeddings.class_embedding", "image/class_token"),
    Rule("vision_model.embeddings.patch_embedding.weight", "image/patch_embed/kernel", CONV),
    Rule("vision_model.embeddings.position_embedding.weight", "image/position"),
    *_affine("vision_model.pre_layrnorm", "image/norm_pre"),  # spelt so in every checkpoint
    *_transformers_blocks("vision_model", "image"),
    *_affine("vision_model.post_layernorm", "image/norm_post"),
    Rule("visual_projection.weight", "image/project/kernel", LINEAR),
    Rule("text_model.embeddings.token_embedding.weight", "text/token"),
    Rule("text_model.embeddings.position_embedding.weight", "text/position"),
    *_transformers_blocks("text_model", "text"),
    *_affine("text_model.final_layer_norm", "text/norm"),
    Rule("text_projection.weight", "text/project/kernel", LINEAR),
)

OPEN_CLIP_RULES = (
    Rule("visual.class_embedding", "image/class_token"),
    Rule("visual.conv1.weight", "image/patch_embed/kernel", CONV),
    Rule("visual.positional_embedding", "image/position"),
    *_affine("visual.ln_pre", "image/norm_pre"),
    *_open_clip_blocks("visual.transformer", "image"),
    *_affine("visual.ln_post", "image/norm_post"),
    Rule("visual.proj", "image/project/kernel"),
    Rule("token_embedding.weight", "text/token"),
    Rule("positional_embedding", "text/position"),
    *_open_clip_blocks("transformer", "text"),
    *_affine("ln_final", "text/norm"),
    Rule("text_projection", "text/project/kernel"),
)


def layout_of(folder: pathlib.Path) -> RewardModelSpec:
    """The layout whose config ``folder`` has; where it has both, the one whose weights are there as well.

    Raises:
      UserError: neither config.
    """
    known = [
        layout for layout in (TRANSFORMERS, OPEN_CLIP) if (folder / str(layout.config)).is_file()
    ]
    if not known:
        raise UserError(
            f"there is no {TRANSFORMERS.config} and no {OPEN_CLIP.config} in {str(folder)!r}; expected the folder of a "
            "CLIP, as transformers or open_clip publish it"
        )
    return next(
        (layout for layout in known if any(any(folder.glob(kind)) for kind in layout.weights)),
        known[0],
    )


TRANSFORMERS = RewardModelSpec(
    name="picture-text similarity",
    build=Clip,
    tiny=ClipConfig(
        image=TowerConfig(32, 2, 2, 32),
        text=TowerConfig(32, 2, 2, 32),
        image_size=32,
        patch_size=16,
        vocab_size=520,
        context=77,
        features=32,
    ),
    full=ClipConfig(
        image=TowerConfig(1280, 32, 16, 5120),
        text=TowerConfig(1024, 24, 16, 4096),
        image_size=224,
        patch_size=14,
        vocab_size=49408,
        context=77,
        features=1024,
    ),
    read_config=read_transformers,
    rules=TRANSFORMERS_RULES,
    home="laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    gigabytes=3.9,
    unused=("logit_scale", "*.embeddings.position_ids"),
    weights=("model*.safetensors", "pytorch_model*.bin"),
)
OPEN_CLIP = dataclasses.replace(
    TRANSFORMERS,
    read_config=read_open_clip,
    rules=OPEN_CLIP_RULES,
    config="open_clip_config.json",
    weights=("open_clip*.safetensors", "open_clip_pytorch_model*.bin"),
)
CLIP = dataclasses.replace(
    TRANSFORMERS,
    weights=(
        "model*.safetensors",
        "open_clip*.safetensors",
        "pytorch_model*.bin",
        "open_clip_pytorch_model*.bin",
    ),
    choose=layout_of,
)
"""Either layout. The scale of the logits is left alone: a cosine has none."""
