"""``config.json`` of BLIP's captioner to our sizes. In: the file's content; out: ``CaptionerConfig``.

Compatible with ``BlipConfig`` (transformers 5), whose writers leave out what has its default value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from corl_jax.core.errors import UserError
from corl_jax.models.janus.config import VisionConfig
from corl_jax.reward_models.blip.model import CaptionerConfig
from corl_jax.reward_models.blip.text_decoder import CaptionTextConfig

HOME = "Salesforce/blip-image-captioning-base"

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
    "heads": (
        "num_attention_heads",
        8,
    ),  # what a file that says nothing means; that of the published model says 12
    "mlp_dim": ("intermediate_size", 3072),
    "norm_eps": ("layer_norm_eps", 1e-12),
    "max_length": ("max_position_embeddings", 512),
    "bos_id": ("bos_token_id", 30522),
    "sep_id": ("sep_token_id", 102),
    "pad_id": ("pad_token_id", 0),
}
"""Our field to theirs and its default in ``BlipVisionConfig`` and ``BlipTextConfig``."""


def read_config(raw: Any, where: str) -> CaptionerConfig:
    """Sizes from a ``config.json`` of model type ``blip``: what the file says, else transformers' defaults.

    Raises:
      UserError: another kind of model, a value of another type, or sizes that our modules do not build.
    """
    kind = raw.get("model_type") if isinstance(raw, dict) else raw
    if kind != "blip":
        raise UserError(
            f"{where!r} holds a model of type {kind!r}; expected 'blip', a captioner such as {HOME}"
        )
    vision, text = (_part(raw, name, where) for name in ("vision_config", "text_config"))
    cfg = CaptionerConfig(
        vision=VisionConfig(**_sizes(vision, VISION_FIELDS, f"vision_config in {where!r}")),
        text=CaptionTextConfig(**_sizes(text, TEXT_FIELDS, f"text_config in {where!r}")),
    )
    for name, got, ours in (
        ("text_config.hidden_act", text.get("hidden_act", "gelu"), "gelu"),
        ("vision_config.hidden_act", vision.get("hidden_act", "gelu"), "gelu"),
        ("tie_word_embeddings", raw.get("tie_word_embeddings", True), True),
        ("text_config.hidden_size % num_attention_heads", cfg.text.width % cfg.text.heads, 0),
        ("vision_config.hidden_size % num_attention_heads", cfg.vision.width % cfg.vision.heads, 0),
    ):
        if got != ours:
            raise UserError(
                f"config.json in {where!r} has {name}={got!r}; this program builds {ours!r}"
            )
    if max(cfg.text.bos_id, cfg.text.sep_id, cfg.text.pad_id) >= cfg.text.vocab_size:
        raise UserError(
            f"text_config in {where!r} has ids beyond vocab_size={cfg.text.vocab_size}; take the file of {HOME}"
        )
    return cfg


def _part(raw: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    """A block of the file; one that is absent or null has defaults alone."""
    part = raw.get(name) or {}
    if not isinstance(part, dict):
        raise UserError(
            f"config.json in {where!r} has {name}={part!r}; expected an object of settings"
        )
    return part


def _sizes(
    part: Mapping[str, Any], fields: Mapping[str, tuple[str, Any]], where: str
) -> dict[str, Any]:
    sizes = {}
    for ours, (theirs, default) in fields.items():
        value = sizes[ours] = part.get(theirs, default)
        whole = not isinstance(default, float)
        kinds, least = (
            ((int,) if whole else (int, float)),
            (0 if ours.endswith("_id") or not whole else 1),
        )
        if type(value) not in kinds or value < least:
            expected = f"a whole number, {least} or more" if whole else "a number, 0 or more"
            raise UserError(
                f"{where} has {theirs}={value!r}; expected {expected}; take the file of {HOME}"
            )
    return sizes
