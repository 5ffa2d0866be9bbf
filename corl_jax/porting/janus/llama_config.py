"""Sizes of the Llama decoder from the block of ``config.json`` that both layouts have for it.

Compatible with ``LlamaConfig`` (transformers 5): what is absent has its default there, and a null
is an error but where ``LlamaConfig`` allows one.
"""

from __future__ import annotations

from typing import Any

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.models.language_model import DecoderConfig
from corl_jax.porting.size_limits import (
    MAX_HEADS,
    MAX_LAYERS,
    MAX_POSITIONS,
    MAX_VOCABULARY,
    MAX_WIDTH,
)

DEFAULTS: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
}
"""Of ``LlamaConfig``. Released files leave out what has its default, several of the 7B's sizes."""
ROPE_THETA = 10000.0
"""Default base of the rotary embedding."""
PLAIN_ROPE_TYPE = "default"


def read_decoder(text: JsonObject) -> DecoderConfig:
    """The sizes in the block of the language model.

    Raises:
      UserError: a value of another type, beyond a limit, or of a variant that ``LanguageModel``
        does not build.
    """

    def size(name: str, limit: int) -> int:
        return text.integer(name, DEFAULTS[name], low=1, high=limit)

    width, heads = size("hidden_size", MAX_WIDTH), size("num_attention_heads", MAX_HEADS)
    # Absent entries mean one key/value head per head, and heads that share the width evenly.
    kv_heads = text.optional_integer("num_key_value_heads", low=1, high=MAX_HEADS)
    head_size = text.optional_integer("head_dim", low=2, high=MAX_WIDTH)
    cfg = DecoderConfig(
        vocab_size=size("vocab_size", MAX_VOCABULARY),
        width=width,
        depth=size("num_hidden_layers", MAX_LAYERS),
        heads=heads,
        kv_heads=heads if kv_heads is None else kv_heads,
        head_size=width // heads if head_size is None else head_size,
        mlp_dim=size("intermediate_size", MAX_WIDTH),
        norm_eps=text.number("rms_norm_eps", DEFAULTS["rms_norm_eps"], low=0, high=1),
        rope_theta=_read_rope_theta(text),
        max_length=size("max_position_embeddings", MAX_POSITIONS),
    )

    # A rotary embedding turns pairs of numbers.
    if cfg.head_size % 2 or (head_size is None and width % heads):
        text.refuse("num_attention_heads", f"such that heads of an even size fill {width}")
    text.require("model_type", "llama", default="llama")
    text.require("hidden_act", "silu", default="silu")
    text.require("attention_bias", False, default=False)
    text.require("mlp_bias", False, default=False)
    return cfg


def _read_rope_theta(text: JsonObject) -> float:
    """The base of the rotary embedding.

    It is read from where transformers reads it: from the object ``rope_scaling``, or else
    ``rope_parameters``, and where that has none from the block itself.

    Raises:
      UserError: another embedding than the plain one; its positions would be wrong silently.
    """
    # An empty object, as a null, stands for the plain embedding.
    name = "rope_scaling" if text.entries.get("rope_scaling") else "rope_parameters"
    rope = text.optional_block(name)

    # Older files call the type "type".
    type_name = "rope_type" if "rope_type" in rope.entries else "type"
    if rope.text(type_name, PLAIN_ROPE_TYPE) != PLAIN_ROPE_TYPE:
        rope.refuse(
            type_name,
            f"{PLAIN_ROPE_TYPE!r}, since corl_jax does not scale or interpolate positions",
        )
    for block in (text, rope):
        block.require("partial_rotary_factor", 1, default=1)
    # Objects in the object are embeddings by kind of layer, which Llama does not have.
    for key, value in rope.entries.items():
        if isinstance(value, (dict, list)):
            rope.refuse(key, "a number or a text")

    block = rope if "rope_theta" in rope.entries else text
    return block.number("rope_theta", ROPE_THETA, low=1)
