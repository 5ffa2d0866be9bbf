"""Sizes of a CLIP. In: ``config.json`` of transformers or ``open_clip_config.json``; out: ``ClipConfig``.

Compatible with ``CLIPConfig`` (transformers 5) and with the vision transformers of open_clip.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from corl_jax.core.errors import UserError
from corl_jax.reward_models.clip.model import ACTIVATIONS, ClipConfig, TowerConfig

COMMON: dict[str, Any] = {
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "num_hidden_layers": 12,
}
TEXT: dict[str, Any] = COMMON | {
    "vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8,
    "max_position_embeddings": 77, "eos_token_id": 49407,
}  # fmt: skip
IMAGE: dict[str, Any] = COMMON | {
    "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "image_size": 224, "patch_size": 32,
    "num_channels": 3,
}  # fmt: skip
"""What a ``config.json`` of transformers leaves out has these values there."""
LEGACY_END = 2
"""As ``eos_token_id`` it means the largest id of a text (transformers pull request 24773)."""

OPEN_CLIP: Mapping[str, Mapping[str, Any]] = {
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
NEEDED: Mapping[str, frozenset[str]] = {
    "model_cfg": frozenset({"embed_dim", "vision_cfg", "text_cfg"}),
    "vision_cfg": frozenset({"layers", "width", "patch_size"}),
    "text_cfg": frozenset(),
}
"""Of open_clip's many options those that this program builds: with the values that they have unsaid, and without."""


def read_transformers(raw: Mapping[str, Any], where: str) -> ClipConfig:
    """Sizes from a ``config.json`` of model type ``clip``.

    Raises:
      UserError: another kind of model, or one that our modules do not build.
    """
    if raw.get("model_type") != "clip":
        raise UserError(
            f"config.json in {where!r} is of model type {raw.get('model_type')!r}; expected that of a CLIP"
        )
    # Older writers repeat a tower's sizes under a second name, which wins.
    text = TEXT | (raw.get("text_config") or {}) | (raw.get("text_config_dict") or {})
    image = IMAGE | (raw.get("vision_config") or {}) | (raw.get("vision_config_dict") or {})
    if image["num_channels"] != 3:
        raise UserError(
            f"config.json in {where!r} has num_channels={image['num_channels']}; expected 3 (RGB)"
        )

    def tower(part: Mapping[str, Any]) -> TowerConfig:
        return TowerConfig(
            width=part["hidden_size"],
            depth=part["num_hidden_layers"],
            heads=part["num_attention_heads"],
            mlp_dim=part["intermediate_size"],
            activation=part["hidden_act"],
            norm_eps=part["layer_norm_eps"],
        )

    end = text["eos_token_id"]
    cfg = ClipConfig(
        image=tower(image),
        text=tower(text),
        image_size=image["image_size"],
        patch_size=image["patch_size"],
        vocab_size=text["vocab_size"],
        context=text["max_position_embeddings"],
        features=raw.get("projection_dim", 512),
        end_id=None if end == LEGACY_END else end,
    )
    return _checked(cfg, "config.json", where)


def read_open_clip(raw: Mapping[str, Any], where: str) -> ClipConfig:
    """Sizes from an ``open_clip_config.json``.

    Raises:
      UserError: a size missing, or an option that our modules do not build.
    """
    model = _known(raw.get("model_cfg"), "model_cfg", where)
    image, text = (_known(model[part], part, where) for part in ("vision_cfg", "text_cfg"))
    activation = "quick_gelu" if model["quick_gelu"] else "gelu"

    def tower(part: Mapping[str, Any], heads: int) -> TowerConfig:
        return TowerConfig(
            part["width"], part["layers"], heads, int(part["width"] * part["mlp_ratio"]), activation
        )

    cfg = ClipConfig(
        image=tower(image, image["width"] // image["head_width"]),
        text=tower(text, text["heads"]),
        image_size=image["image_size"],
        patch_size=image["patch_size"],
        vocab_size=text["vocab_size"],
        context=text["context_length"],
        features=model["embed_dim"],
    )
    return _checked(cfg, "open_clip_config.json", where)


def _known(part: Any, name: str, where: str) -> dict[str, Any]:
    """One part of an open_clip config with its defaults, once every option in it is known."""
    if not isinstance(part, dict):
        raise UserError(
            f"open_clip_config.json in {where!r} has no {name}; take the file of the original checkpoint"
        )
    if missing := sorted(NEEDED[name] - part.keys()):
        raise UserError(
            f"{name} in open_clip_config.json in {where!r} lacks {', '.join(missing)}; take the original"
        )
    if other := sorted(part.keys() - NEEDED[name] - OPEN_CLIP[name].keys()):
        raise UserError(
            f"{name} in open_clip_config.json in {where!r} has {other[0]}={part[other[0]]!r}, which this program does "
            "not build; expected a plain vision transformer such as ViT-H-14"
        )
    return {**OPEN_CLIP[name], **part}


def _checked(cfg: ClipConfig, file: str, where: str) -> ClipConfig:
    for tower in (cfg.image, cfg.text):
        sizes = (
            tower.width,
            tower.depth,
            tower.heads,
            tower.mlp_dim,
            cfg.image_size,
            cfg.patch_size,
            cfg.features,
        )
        if not all(type(size) is int and size > 0 for size in sizes) or tower.width % tower.heads:
            raise UserError(
                f"{file} in {where!r} has sizes that are no whole numbers or do not divide: {tower}"
            )
        if tower.activation not in ACTIVATIONS:
            raise UserError(
                f"{file} in {where!r} has the activation {tower.activation!r}; expected one of {', '.join(ACTIVATIONS)}"
            )
    return cfg
