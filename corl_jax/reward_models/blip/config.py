"""Sizes of BLIP's captioner from its ``config.json``.

Compatible with ``BlipConfig`` (transformers 5), which leaves out of a file what has its default
value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.models.janus.config import VisionConfig
from corl_jax.porting.size_limits import FIELD_LIMITS
from corl_jax.reward_models.blip.model import BlipConfig
from corl_jax.reward_models.blip.text_decoder import BlipTextConfig

HUB_ID = "Salesforce/blip-image-captioning-base"
ADVICE = f"take a captioner such as {HUB_ID}"

MAX_TEXT_LAYERS = 100
"""Layers of the text decoder are modules of their own, which takes time to build."""

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


def read_config(raw: object, folder: str) -> BlipConfig:
    """Sizes from a ``config.json`` of model type ``blip``; defaults are those of transformers.

    Args:
      raw: content of the file.
      folder: its folder, for errors.

    Raises:
      UserError: another kind of model, a value of a wrong type or beyond a limit, or sizes that
        ``BlipModel`` does not implement.
    """
    config = JsonObject.check(raw, f"config.json of {folder!r}", ADVICE)
    config.require("model_type", "blip")

    # Both blocks, with defaults where the file says nothing.
    vision, text = config.optional_block("vision_config"), config.optional_block("text_config")
    cfg = BlipConfig(
        vision=VisionConfig(**_read_sizes(vision, VISION_FIELDS)),
        text=BlipTextConfig(**_read_sizes(text, TEXT_FIELDS)),
    )

    if cfg.text.depth > MAX_TEXT_LAYERS:
        text.refuse("num_hidden_layers", f"at most {MAX_TEXT_LAYERS}")

    # The variants of BLIP that are implemented.
    text.require("hidden_act", "gelu", default="gelu")
    vision.require("hidden_act", "gelu", default="gelu")
    config.require("tie_word_embeddings", True, default=True)
    for block, width, heads in (
        (text, cfg.text.width, cfg.text.heads),
        (vision, cfg.vision.width, cfg.vision.heads),
    ):
        if width % heads:
            block.refuse("num_attention_heads", f"a divisor of hidden_size={width}")

    # On the device, an id beyond the table would not raise an error.
    for field in ("bos_id", "sep_id", "pad_id"):
        if vars(cfg.text)[field] >= cfg.text.vocab_size:
            text.refuse(TEXT_FIELDS[field][0], f"below vocab_size={cfg.text.vocab_size}")
    return cfg


def _read_sizes(block: JsonObject, fields: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    """The value of each of ``fields``."""
    sizes: dict[str, Any] = {}
    for field, (name, default) in fields.items():
        # A default of 1e-5 marks a real number; ids may be 0, all other integers are counts.
        if isinstance(default, float):
            sizes[field] = block.number(name, default, low=0, high=1)
        elif field.endswith("_id"):
            sizes[field] = block.integer(name, default)
        else:
            sizes[field] = block.integer(name, default, low=1, high=FIELD_LIMITS[field])
    return sizes
