"""Sizes of BLIP's captioner from its ``config.json``.

Compatible with ``BlipConfig`` (transformers 5), which leaves out of a file what has its default
value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from corl_jax.core.errors import UserError
from corl_jax.models.janus.config import VisionConfig
from corl_jax.reward_models.blip.model import BlipConfig
from corl_jax.reward_models.blip.text_decoder import BlipTextConfig

HUB_ID = "Salesforce/blip-image-captioning-base"

VISION_FIELDS = {
    "image_size": ("image_size", 384),
    "patch_size": ("patch_size", 16),
    "width": ("hidden_size", 768),
    "depth": ("num_hidden_layers", 12),
    "heads": ("num_attention_heads", 12),
    "mlp_dim": ("intermediate_size", 3072),
    "norm_eps": ("layer_norm_eps", 1e-5),
}
TEXT_FIELDS = {
    "vocab_size": ("vocab_size", 30524),
    "width": ("hidden_size", 768),
    "depth": ("num_hidden_layers", 12),
    # The default of transformers; the file of the published model has 12.
    "heads": ("num_attention_heads", 8),
    "mlp_dim": ("intermediate_size", 3072),
    "norm_eps": ("layer_norm_eps", 1e-12),
    "max_length": ("max_position_embeddings", 512),
    "bos_id": ("bos_token_id", 30522),
    "sep_id": ("sep_token_id", 102),
    "pad_id": ("pad_token_id", 0),
}
"""Field here: its name and its default in ``BlipVisionConfig`` and ``BlipTextConfig``."""


def read_config(raw: Any, folder: str) -> BlipConfig:
    """Sizes from a ``config.json`` of model type ``blip``; defaults are those of transformers.

    Args:
      raw: content of the file.
      folder: its folder, for errors.

    Raises:
      UserError: another kind of model, a value of a wrong type, or sizes that ``BlipModel`` does
        not implement.
    """
    # A file without blocks of settings, such as a list, is refused here as well.
    model_type = raw.get("model_type") if isinstance(raw, dict) else raw
    if model_type != "blip":
        raise UserError(
            f"{folder!r} must hold a model of type 'blip', a captioner such as {HUB_ID}; got "
            f"{model_type!r}. Name another folder"
        )

    # Both blocks, with defaults where the file says nothing.
    vision = _read_block(raw, "vision_config", folder)
    text = _read_block(raw, "text_config", folder)

    cfg = BlipConfig(
        vision=VisionConfig(**_read_sizes(vision, VISION_FIELDS, f"vision_config in {folder!r}")),
        text=BlipTextConfig(**_read_sizes(text, TEXT_FIELDS, f"text_config in {folder!r}")),
    )

    # The variants of BLIP that are implemented.
    for name, value, expected in (
        ("text_config.hidden_act", text.get("hidden_act", "gelu"), "gelu"),
        ("vision_config.hidden_act", vision.get("hidden_act", "gelu"), "gelu"),
        ("tie_word_embeddings", raw.get("tie_word_embeddings", True), True),
        ("text_config.hidden_size % num_attention_heads", cfg.text.width % cfg.text.heads, 0),
        ("vision_config.hidden_size % num_attention_heads", cfg.vision.width % cfg.vision.heads, 0),
    ):
        if value != expected:
            raise UserError(
                f"{name} in config.json of {folder!r} must be {expected!r}; got {value!r}. "
                f"Take a captioner such as {HUB_ID}"
            )

    # On the device, an id beyond the table would not raise an error.
    if max(cfg.text.bos_id, cfg.text.sep_id, cfg.text.pad_id) >= cfg.text.vocab_size:
        raise UserError(
            f"the token ids of text_config in {folder!r} must be below its "
            f"vocab_size={cfg.text.vocab_size}; got {cfg.text.bos_id}, {cfg.text.sep_id} and "
            f"{cfg.text.pad_id}. Take the file of {HUB_ID}"
        )
    return cfg


def _read_block(raw: Mapping[str, Any], name: str, folder: str) -> dict[str, Any]:
    """A block of the file; an absent block, or null, has defaults alone."""
    block = raw.get(name) or {}
    if not isinstance(block, dict):
        raise UserError(
            f"{name} in config.json of {folder!r} must be an object of settings; got {block!r}. "
            f"Take the file of {HUB_ID}"
        )
    return block


def _read_sizes(
    block: Mapping[str, Any], fields: Mapping[str, tuple[str, Any]], label: str
) -> dict[str, Any]:
    """The value of each of ``fields``, checked; ``label`` names the block in errors."""
    sizes = {}
    for field, (name, default) in fields.items():
        value = block.get(name, default)
        sizes[field] = value

        # A default of 1e-5 marks a real number; ids may be 0, all other integers are counts.
        is_integer = not isinstance(default, float)
        types = (int,) if is_integer else (int, float)
        minimum = 0 if field.endswith("_id") or not is_integer else 1

        # ``type`` and not ``isinstance``, since True is an int as well.
        if type(value) not in types or value < minimum:
            kind = "an integer" if is_integer else "a number"
            raise UserError(
                f"{name} of {label} must be {kind} of at least {minimum}; got {value!r}. "
                f"Take the file of {HUB_ID}"
            )
    return sizes
