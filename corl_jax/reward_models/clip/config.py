"""Sizes of a CLIP, from ``config.json`` of transformers or from ``open_clip_config.json``.

Compatible with ``CLIPConfig`` (transformers 5) and with the vision transformers of open_clip.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.porting.size_limits import (
    MAX_HEADS,
    MAX_IMAGE_SIDE,
    MAX_LAYERS,
    MAX_POSITIONS,
    MAX_VOCABULARY,
    MAX_WIDTH,
)
from corl_jax.reward_models.clip.model import ACTIVATIONS, ClipConfig, TowerConfig

COMMON_DEFAULTS: dict[str, Any] = {
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "num_hidden_layers": 12,
}
TEXT_DEFAULTS: dict[str, Any] = COMMON_DEFAULTS | {
    "vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8,
    "max_position_embeddings": 77, "eos_token_id": 49407,
}  # fmt: skip
IMAGE_DEFAULTS: dict[str, Any] = COMMON_DEFAULTS | {
    "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "image_size": 224,
    "patch_size": 32, "num_channels": 3,
}  # fmt: skip
"""The values in transformers of what its ``config.json`` leaves out."""
MIN_CONTEXT = 3
"""A start token, an end token and one between them."""
ADVICE = "take the file of the original checkpoint, or another CLIP"
LEGACY_END_ID = 2
"""As ``eos_token_id`` it means the largest id of a text (transformers pull request 24773)."""

OPEN_CLIP_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "model_cfg": {"quick_gelu": False},
    "vision_cfg": {"head_width": 64, "mlp_ratio": 4.0, "image_size": 224},
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 512,
        "heads": 8,
        "layers": 12,
        "mlp_ratio": 4.0,
    },
}
OPEN_CLIP_REQUIRED: Mapping[str, frozenset[str]] = {
    "model_cfg": frozenset({"embed_dim", "vision_cfg", "text_cfg"}),
    "vision_cfg": frozenset({"layers", "width", "patch_size"}),
    "text_cfg": frozenset(),
}
"""The options of open_clip that are implemented: those with a default, and the required ones."""


def read_transformers_config(raw: object, folder: str) -> ClipConfig:
    """Sizes from a ``config.json`` of model type ``clip``.

    Args:
      raw: content of the file.
      folder: its folder, for errors.

    Raises:
      UserError: another kind of model, a value of another type or beyond a limit, or a variant that
        ``Clip`` does not implement.
    """
    config = JsonObject.check(raw, f"config.json of {folder!r}", ADVICE)
    config.require("model_type", "clip")
    text = _with_defaults(config, "text_config", TEXT_DEFAULTS)
    image = _with_defaults(config, "vision_config", IMAGE_DEFAULTS)
    # Only RGB is implemented.
    image.require("num_channels", 3)

    # The legacy value stands for the largest id of a text.
    vocab_size = text.integer("vocab_size", low=1, high=MAX_VOCABULARY)
    end_id = text.integer("eos_token_id", high=vocab_size - 1)
    image_size = image.integer("image_size", low=1, high=MAX_IMAGE_SIDE)
    return ClipConfig(
        image=_read_transformers_tower(image),
        text=_read_transformers_tower(text),
        image_size=image_size,
        patch_size=image.integer("patch_size", low=1, high=image_size),
        vocab_size=vocab_size,
        context=text.integer("max_position_embeddings", low=MIN_CONTEXT, high=MAX_POSITIONS),
        features=config.integer("projection_dim", 512, low=1, high=MAX_WIDTH),
        end_id=None if end_id == LEGACY_END_ID else end_id,
    )


def _with_defaults(config: JsonObject, name: str, defaults: Mapping[str, object]) -> JsonObject:
    """The block of a tower: defaults, then the file's values.

    Older writers repeat a tower's sizes under a second name, which wins.
    """
    block, repeated = config.optional_block(name), config.optional_block(f"{name}_dict")
    return dataclasses.replace(block, entries={**defaults, **block.entries, **repeated.entries})


def _read_transformers_tower(block: JsonObject) -> TowerConfig:
    return TowerConfig(
        width=_read_width(block, "num_attention_heads", "hidden_size"),
        depth=block.integer("num_hidden_layers", low=1, high=MAX_LAYERS),
        heads=block.integer("num_attention_heads", low=1, high=MAX_HEADS),
        mlp_dim=block.integer("intermediate_size", low=1, high=MAX_WIDTH),
        activation=_read_activation(block),
        norm_eps=block.number("layer_norm_eps", low=0, high=1),
    )


def _read_width(block: JsonObject, heads_name: str, name: str) -> int:
    """The width of a tower, which its heads divide."""
    width = block.integer(name, low=1, high=MAX_WIDTH)
    heads = block.integer(heads_name, low=1, high=MAX_HEADS)
    if width % heads:
        block.refuse(name, f"a multiple of the {heads} heads")
    return width


def _read_activation(block: JsonObject) -> str:
    activation = block.text("hidden_act")
    if activation not in ACTIVATIONS:
        block.refuse("hidden_act", f"one of {', '.join(ACTIVATIONS)}")
    return activation


def read_open_clip_config(raw: object, folder: str) -> ClipConfig:
    """Sizes from an ``open_clip_config.json``.

    Args:
      raw: content of the file.
      folder: its folder, for errors.

    Raises:
      UserError: a size is missing, of another type or beyond a limit, or an option is one that
        ``Clip`` does not implement.
    """
    # A block with defaults filled in; unknown options would change the model silently.
    config = JsonObject.check(raw, f"open_clip_config.json of {folder!r}", ADVICE)
    model = _with_options(config.block("model_cfg"), "model_cfg")
    image = _with_options(model.block("vision_cfg"), "vision_cfg")
    text = _with_options(model.block("text_cfg"), "text_cfg")

    # open_clip gives the width of a head for images and the number of heads for texts.
    activation = "quick_gelu" if model.boolean("quick_gelu") else "gelu"
    image_width = image.integer("width", low=1, high=MAX_WIDTH)
    head_width = image.integer("head_width", low=1, high=image_width)
    if image_width % head_width:
        image.refuse("width", f"a multiple of head_width={head_width}")
    text_heads = text.integer("heads", low=1, high=MAX_HEADS)
    if text.integer("width", low=1, high=MAX_WIDTH) % text_heads:
        text.refuse("width", f"a multiple of the {text_heads} heads")

    image_size = image.integer("image_size", low=1, high=MAX_IMAGE_SIDE)
    return ClipConfig(
        image=_read_open_clip_tower(image, image_width // head_width, activation),
        text=_read_open_clip_tower(text, text_heads, activation),
        image_size=image_size,
        patch_size=image.integer("patch_size", low=1, high=image_size),
        vocab_size=text.integer("vocab_size", low=1, high=MAX_VOCABULARY),
        context=text.integer("context_length", low=MIN_CONTEXT, high=MAX_POSITIONS),
        features=model.integer("embed_dim", low=1, high=MAX_WIDTH),
    )


def _with_options(block: JsonObject, name: str) -> JsonObject:
    """A block of an open_clip config with its defaults, after checking that all options are known."""
    known = OPEN_CLIP_REQUIRED[name] | OPEN_CLIP_DEFAULTS[name].keys()
    if unknown := sorted(block.entries.keys() - known):
        block.refuse(
            unknown[0], "absent, as in a plain vision transformer such as ViT-H-14: it is not built"
        )
    return dataclasses.replace(block, entries={**OPEN_CLIP_DEFAULTS[name], **block.entries})


def _read_open_clip_tower(block: JsonObject, heads: int, activation: str) -> TowerConfig:
    width = block.integer("width", low=1, high=MAX_WIDTH)
    mlp_dim = int(width * block.number("mlp_ratio", low=0, high=MAX_WIDTH))
    if not 1 <= mlp_dim <= MAX_WIDTH:
        block.refuse("mlp_ratio", f"such that {width} times it is from 1 to {MAX_WIDTH}")
    depth = block.integer("layers", low=1, high=MAX_LAYERS)
    return TowerConfig(width, depth, heads, mlp_dim, activation)
