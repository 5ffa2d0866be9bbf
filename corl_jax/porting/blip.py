"""BLIP's captioner from a Hugging Face folder: its table of tensors, its ``config.json``, its kind.

Compatible with ``BlipForConditionalGeneration`` (transformers 5), as in ``Salesforce/blip-image-captioning-base``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from corl_jax.core.errors import UserError
from corl_jax.models.caption_decoder import CaptionTextConfig
from corl_jax.models.captioner import CaptionerConfig, CaptionNet
from corl_jax.models.config import VisionConfig
from corl_jax.porting.blip_words import TINY_WORDS
from corl_jax.porting.mapping import CONV, FIRST, LINEAR, SAME, Layout, Rule
from corl_jax.porting.nets import NetKind

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
    "heads": ("num_attention_heads", 8),  # what a file that says nothing means; that of the published model says 12
    "mlp_dim": ("intermediate_size", 3072),
    "norm_eps": ("layer_norm_eps", 1e-12),
    "max_length": ("max_position_embeddings", 512),
    "bos_id": ("bos_token_id", 30522),
    "sep_id": ("sep_token_id", 102),
    "pad_id": ("pad_token_id", 0),
}
"""Our field to theirs and its default in ``BlipVisionConfig`` and ``BlipTextConfig``."""

TINY = CaptionerConfig(
    vision=VisionConfig(image_size=48, patch_size=8, width=64, depth=2, heads=4, mlp_dim=128, norm_eps=1e-5),
    text=CaptionTextConfig(
        vocab_size=len(TINY_WORDS) + 2,
        width=64,
        depth=2,
        heads=4,
        mlp_dim=128,
        max_length=64,
        bos_id=len(TINY_WORDS),
        sep_id=TINY_WORDS.index("[SEP]"),
        pad_id=TINY_WORDS.index("[PAD]"),
    ),
)


def read_config(raw: Any, where: str) -> CaptionerConfig:
    """Sizes from a ``config.json`` of model type ``blip``: what the file says, else transformers' defaults.

    Raises:
      UserError: another kind of model, a value of another type, or sizes that our modules do not build.
    """
    kind = raw.get("model_type") if isinstance(raw, dict) else raw
    if kind != "blip":
        raise UserError(f"{where!r} holds a model of type {kind!r}; expected 'blip', a captioner such as {HOME}")
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
            raise UserError(f"config.json in {where!r} has {name}={got!r}; this program builds {ours!r}")
    return cfg


def _part(raw: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    """A block of the file; one that is absent or null has defaults alone."""
    part = raw.get(name) or {}
    if not isinstance(part, dict):
        raise UserError(f"config.json in {where!r} has {name}={part!r}; expected an object of settings")
    return part


def _sizes(part: Mapping[str, Any], fields: Mapping[str, tuple[str, Any]], where: str) -> dict[str, Any]:
    sizes = {}
    for ours, (theirs, default) in fields.items():
        value = sizes[ours] = part.get(theirs, default)
        fits = type(value) in (int, float) if isinstance(default, float) else type(value) is int
        if not fits or value < 0:
            expected = "a number" if isinstance(default, float) else "a whole number"
            raise UserError(f"{where} has {theirs}={value!r}; expected {expected}, as in the file of {HOME}")
    return sizes


HOME = "Salesforce/blip-image-captioning-base"


def _both(foreign: str, ours: str, layout: Layout = LINEAR, part: tuple[int, int] = (0, 1)) -> tuple[Rule, Rule]:
    """Weight and bias of a linear map or a convolution."""
    return (
        Rule(f"{foreign}.weight", f"{ours}/kernel", layout, part),
        Rule(f"{foreign}.bias", f"{ours}/bias", SAME, part),
    )


def _norm(foreign: str, ours: str) -> tuple[Rule, Rule]:
    return Rule(f"{foreign}.weight", f"{ours}/scale"), Rule(f"{foreign}.bias", f"{ours}/bias")


def _attention(foreign: str, ours: str) -> tuple[Rule, ...]:
    """BERT's attention with its output and norm."""
    return (
        *_both(f"{foreign}.self.query", f"{ours}/q_proj"),
        *_both(f"{foreign}.self.key", f"{ours}/k_proj"),
        *_both(f"{foreign}.self.value", f"{ours}/v_proj"),
        *_both(f"{foreign}.output.dense", f"{ours}/o_proj"),
        *_norm(f"{foreign}.output.LayerNorm", f"{ours}/norm"),
    )


TOWER, TOWER_LAYER = "vision_model.embeddings", "vision_model.encoder.layers.{layer}"
BERT, LAYER = "text_decoder.bert.embeddings", "text_decoder.bert.encoder.layer.{layer}"
HEAD = "text_decoder.cls.predictions"

RULES: tuple[Rule, ...] = (
    Rule(f"{TOWER}.class_embedding", "vision/token", FIRST),
    Rule(f"{TOWER}.position_embedding", "vision/position", FIRST),
    *_both(f"{TOWER}.patch_embedding", "vision/patch_embed", CONV),
    *_both(f"{TOWER_LAYER}.self_attn.qkv", "vision/layers/q_proj", part=(0, 3)),
    *_both(f"{TOWER_LAYER}.self_attn.qkv", "vision/layers/k_proj", part=(1, 3)),
    *_both(f"{TOWER_LAYER}.self_attn.qkv", "vision/layers/v_proj", part=(2, 3)),
    *_both(f"{TOWER_LAYER}.self_attn.projection", "vision/layers/o_proj"),
    *_both(f"{TOWER_LAYER}.mlp.fc1", "vision/layers/fc1"),
    *_both(f"{TOWER_LAYER}.mlp.fc2", "vision/layers/fc2"),
    *_norm(f"{TOWER_LAYER}.layer_norm1", "vision/layers/norm1"),
    *_norm(f"{TOWER_LAYER}.layer_norm2", "vision/layers/norm2"),
    *_norm("vision_model.post_layernorm", "vision/norm"),
    Rule(f"{BERT}.word_embeddings.weight", "text/words/embedding"),
    Rule(f"{BERT}.position_embeddings.weight", "text/positions/embedding"),
    *_norm(f"{BERT}.LayerNorm", "text/norm"),
    *_attention(f"{LAYER}.attention", "text/layers/{layer}/attention"),
    *_attention(f"{LAYER}.crossattention", "text/layers/{layer}/cross"),
    *_both(f"{LAYER}.intermediate.dense", "text/layers/{layer}/fc1"),
    *_both(f"{LAYER}.output.dense", "text/layers/{layer}/fc2"),
    *_norm(f"{LAYER}.output.LayerNorm", "text/layers/{layer}/norm"),
    *_both(f"{HEAD}.transform.dense", "text/head"),
    *_norm(f"{HEAD}.transform.LayerNorm", "text/head_norm"),
    Rule(f"{HEAD}.bias", "text/bias"),
)

TIED = {f"{BERT}.word_embeddings.weight": f"{HEAD}.decoder.weight", f"{HEAD}.bias": f"{HEAD}.decoder.bias"}
"""The second name of a tensor that has two; a file may hold both or either."""


def tied_name(name: str, found: frozenset[str]) -> str:
    """The name under which the files hold a tensor."""
    return TIED[name] if name in TIED and name not in found and TIED[name] in found else name


CAPTIONER = NetKind(
    name="captioner",
    build=lambda cfg, rngs: CaptionNet(cfg, rngs=rngs),
    tiny=TINY,
    read_config=read_config,
    rules=RULES,
    home=HOME,
    gigabytes=0.99,
    unused=(*TIED.values(), "*.position_ids"),
    rename=tied_name,
)
