"""Sizes of a CLIP, from ``config.json`` of transformers or from ``open_clip_config.json``.

Compatible with ``CLIPConfig`` (transformers 5) and with the vision transformers of open_clip.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from corl_jax.core.errors import UserError
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


def read_transformers_config(raw: Mapping[str, Any], folder: str) -> ClipConfig:
    """Sizes from a ``config.json`` of model type ``clip``.

    Args:
      raw: content of the file.
      folder: its folder, for errors.

    Raises:
      UserError: another kind of model, or a variant that ``Clip`` does not implement.
    """
    if raw.get("model_type") != "clip":
        raise UserError(
            f"model_type in config.json of {folder!r} must be 'clip'; got "
            f"{raw.get('model_type')!r}. Name the folder of a CLIP"
        )

    # Defaults, then the file's values. Older writers repeat a tower's sizes under a second name,
    # which wins.
    text = TEXT_DEFAULTS | (raw.get("text_config") or {}) | (raw.get("text_config_dict") or {})
    image = IMAGE_DEFAULTS | (raw.get("vision_config") or {})
    image = image | (raw.get("vision_config_dict") or {})

    # Only RGB is implemented.
    if image["num_channels"] != 3:
        raise UserError(
            f"num_channels in config.json of {folder!r} must be 3 (RGB); got "
            f"{image['num_channels']}. Take a CLIP for colour images"
        )

    # The legacy value stands for the largest id of a text.
    end_id = text["eos_token_id"]
    cfg = ClipConfig(
        image=_read_transformers_tower(image),
        text=_read_transformers_tower(text),
        image_size=image["image_size"],
        patch_size=image["patch_size"],
        vocab_size=text["vocab_size"],
        context=text["max_position_embeddings"],
        features=raw.get("projection_dim", 512),
        end_id=None if end_id == LEGACY_END_ID else end_id,
    )
    return _check_config(cfg, "config.json", folder)


def _read_transformers_tower(block: Mapping[str, Any]) -> TowerConfig:
    return TowerConfig(
        width=block["hidden_size"],
        depth=block["num_hidden_layers"],
        heads=block["num_attention_heads"],
        mlp_dim=block["intermediate_size"],
        activation=block["hidden_act"],
        norm_eps=block["layer_norm_eps"],
    )


def read_open_clip_config(raw: Mapping[str, Any], folder: str) -> ClipConfig:
    """Sizes from an ``open_clip_config.json``.

    Args:
      raw: content of the file.
      folder: its folder, for errors.

    Raises:
      UserError: a size is missing, or an option is one that ``Clip`` does not implement.
    """
    # A block with defaults filled in; unknown options would change the model silently.
    model = _read_open_clip_block(raw.get("model_cfg"), "model_cfg", folder)
    image = _read_open_clip_block(model["vision_cfg"], "vision_cfg", folder)
    text = _read_open_clip_block(model["text_cfg"], "text_cfg", folder)

    # open_clip gives the width of a head for images and the number of heads for texts.
    activation = "quick_gelu" if model["quick_gelu"] else "gelu"
    image_heads = image["width"] // image["head_width"]

    cfg = ClipConfig(
        image=_read_open_clip_tower(image, image_heads, activation),
        text=_read_open_clip_tower(text, text["heads"], activation),
        image_size=image["image_size"],
        patch_size=image["patch_size"],
        vocab_size=text["vocab_size"],
        context=text["context_length"],
        features=model["embed_dim"],
    )
    return _check_config(cfg, "open_clip_config.json", folder)


def _read_open_clip_block(block: Any, name: str, folder: str) -> dict[str, Any]:
    """One block of an open_clip config with its defaults, after checking its options."""
    if not isinstance(block, dict):
        raise UserError(
            f"open_clip_config.json in {folder!r} has no {name}; "
            "take the file of the original checkpoint"
        )

    # Neither a required option is missing, nor is there an option that is not implemented.
    if missing := sorted(OPEN_CLIP_REQUIRED[name] - block.keys()):
        raise UserError(
            f"{name} in open_clip_config.json of {folder!r} lacks {', '.join(missing)}; "
            "take the file of the original checkpoint"
        )

    known = OPEN_CLIP_REQUIRED[name] | OPEN_CLIP_DEFAULTS[name].keys()
    if unknown := sorted(block.keys() - known):
        raise UserError(
            f"{name} in open_clip_config.json of {folder!r} must be that of a plain vision "
            f"transformer such as ViT-H-14; got {unknown[0]}={block[unknown[0]]!r}, which is not "
            "implemented. Take another CLIP"
        )
    return {**OPEN_CLIP_DEFAULTS[name], **block}


def _read_open_clip_tower(block: Mapping[str, Any], heads: int, activation: str) -> TowerConfig:
    mlp_dim = int(block["width"] * block["mlp_ratio"])
    return TowerConfig(block["width"], block["layers"], heads, mlp_dim, activation)


def _check_config(cfg: ClipConfig, file: str, folder: str) -> ClipConfig:
    """``cfg`` itself, after checking its sizes and activations; ``file`` is named in errors."""
    shared_sizes = (cfg.image_size, cfg.patch_size, cfg.features)

    for tower in (cfg.image, cfg.text):
        # ``type`` and not ``isinstance``, since True is an int as well.
        sizes = (tower.width, tower.depth, tower.heads, tower.mlp_dim, *shared_sizes)
        if not all(type(size) is int and size > 0 for size in sizes) or tower.width % tower.heads:
            raise UserError(
                f"the sizes in {file} of {folder!r} must be positive integers, and width must "
                f"be a multiple of heads; got {tower}. Take the file of the original checkpoint"
            )

        if tower.activation not in ACTIVATIONS:
            raise UserError(
                f"the activation in {file} of {folder!r} must be one of {', '.join(ACTIVATIONS)}; "
                f"got {tower.activation!r}. Take another CLIP"
            )
    return cfg
