"""BERT and MPNet folders of the Hugging Face hub: tensor names, sizes, reward model specs.

In: ``config.json`` and tensor names of transformers. Out: the specs ``BERT`` and ``SENTENCE`` for
``load_reward_model``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.porting.rules import IDENTITY, LINEAR, TensorRule
from corl_jax.porting.size_limits import (
    MAX_HEADS,
    MAX_LAYERS,
    MAX_POSITIONS,
    MAX_VOCABULARY,
    MAX_WIDTH,
)
from corl_jax.reward_models.base import RewardModelSpec
from corl_jax.reward_models.bert.model import Bert, BertConfig

MPNET_BUCKETS = 32
MPNET_PADDING_ID = 1
"""Constants in the code of ``MPNetModel``, whatever its config contains."""

SIZES = {
    "vocab_size": ("vocab_size", MAX_VOCABULARY),
    "width": ("hidden_size", MAX_WIDTH),
    "depth": ("num_hidden_layers", MAX_LAYERS),
    "heads": ("num_attention_heads", MAX_HEADS),
    "mlp_dim": ("intermediate_size", MAX_WIDTH),
    "positions": ("max_position_embeddings", MAX_POSITIONS),
}
"""Fields of ``BertConfig``, their names in a ``config.json`` of either model, and their limits."""
MIN_POSITIONS = 4
"""A start token, an end token, and the two positions that MPNet leaves out."""
ADVICE = "take another folder of the same kind of model"


def _weight_and_bias(tensor: str, path: str) -> list[TensorRule]:
    """Rules for the norm or the linear map ``tensor`` of the files, the module ``path`` here."""
    # A norm keeps its vector; a linear map is stored as [out, in].
    name, layout = ("scale", IDENTITY) if "norm" in path else ("kernel", LINEAR)
    return [
        TensorRule(f"{tensor}.weight", f"{path}/{name}", layout),
        TensorRule(f"{tensor}.bias", f"{path}/bias"),
    ]


def _common_rules(attention: Mapping[str, str]) -> list[TensorRule]:
    """The rules that BERT and MPNet share; ``attention`` has the names of the attention parts."""
    layer_parts = {
        **attention,
        "fc1": "intermediate.dense",
        "fc2": "output.dense",
        "norm2": "output.LayerNorm",
    }

    # Embeddings, then the layers, which are stacked here.
    rules = [
        TensorRule("embeddings.word_embeddings.weight", "words"),
        TensorRule("embeddings.position_embeddings.weight", "positions"),
        *_weight_and_bias("embeddings.LayerNorm", "norm"),
    ]

    for part, tensor in layer_parts.items():
        rules += _weight_and_bias(f"encoder.layer.{{layer}}.{tensor}", f"layers/{part}")
    return rules


BERT_RULES = (
    *_common_rules(
        {
            "q_proj": "attention.self.query",
            "k_proj": "attention.self.key",
            "v_proj": "attention.self.value",
            "o_proj": "attention.output.dense",
            "norm1": "attention.output.LayerNorm",
        }
    ),
    TensorRule("embeddings.token_type_embeddings.weight", "types"),
)
MPNET_RULES = (
    *_common_rules(
        {
            "q_proj": "attention.attn.q",
            "k_proj": "attention.attn.k",
            "v_proj": "attention.attn.v",
            "o_proj": "attention.attn.o",
            "norm1": "attention.LayerNorm",
        }
    ),
    TensorRule("encoder.relative_attention_bias.weight", "distances"),
)
UNUSED_TENSORS = (
    "pooler.*",
    "*.pooler.*",
    "cls.*",
    "lm_head.*",
    "embeddings.position_ids",
    "*.embeddings.position_ids",
)
"""Heads, and a buffer that older writers saved; no token state depends on them."""


def make_tensor_renamer(prefix: str) -> Callable[[str, frozenset[str]], str]:
    """The ``rename_tensor`` of a spec.

    Files of a model with a head have ``prefix`` before every name; files of the first BERT call the
    parameters of norms gamma and beta.
    """

    def rename_tensor(name: str, file_names: frozenset[str]) -> str:
        # With a head: bert.embeddings..., without: embeddings...
        if any(file_name.startswith(f"{prefix}embeddings.") for file_name in file_names):
            name = prefix + name

        # Converted from TensorFlow: gamma and beta.
        old_name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        old_name = old_name.replace("LayerNorm.bias", "LayerNorm.beta")
        return old_name if old_name in file_names else name

    return rename_tensor


def read_bert_config(raw: object, folder: str) -> BertConfig:
    """Sizes from a ``config.json`` of model type ``bert``.

    Raises:
      UserError: another model type, a number missing, of another type or beyond a limit, or a
        variant that ``Bert`` does not implement.
    """
    config = JsonObject.check(raw, f"config.json of {folder!r}", ADVICE)
    config.require("model_type", "bert")
    config.require("position_embedding_type", "absolute", default="absolute")
    config.require("is_decoder", False, default=False)
    token_types = config.integer("type_vocab_size", low=1, high=MAX_WIDTH)
    return BertConfig(**_read_common_sizes(config), token_types=token_types)


def read_mpnet_config(raw: object, folder: str) -> BertConfig:
    """Sizes from a ``config.json`` of model type ``mpnet``; positions begin after the padding id.

    Raises:
      UserError: as ``read_bert_config``.
    """
    config = JsonObject.check(raw, f"config.json of {folder!r}", ADVICE)
    config.require("model_type", "mpnet")
    config.require("pad_token_id", MPNET_PADDING_ID, default=MPNET_PADDING_ID)
    config.require("relative_attention_num_buckets", MPNET_BUCKETS, default=MPNET_BUCKETS)
    return BertConfig(
        **_read_common_sizes(config),
        first_position=MPNET_PADDING_ID + 1,
        buckets=MPNET_BUCKETS,
    )


def _read_common_sizes(config: JsonObject) -> dict[str, Any]:
    """The fields that BERT and MPNet have under the same names."""
    config.require("hidden_act", "gelu", default="gelu")

    # Each size by itself, then the two that must fit.
    sizes: dict[str, Any] = {
        field: config.integer(name, low=MIN_POSITIONS if field == "positions" else 1, high=limit)
        for field, (name, limit) in SIZES.items()
    }
    if sizes["width"] % sizes["heads"]:
        config.refuse("hidden_size", f"a multiple of its {sizes['heads']} heads")

    # The default is that of transformers.
    return {**sizes, "norm_eps": config.number("layer_norm_eps", 1e-12, low=0, high=1)}


BERT = RewardModelSpec(
    name="text encoder",
    build_module=lambda cfg, rngs: Bert(cfg, rngs=rngs),
    tiny_config=BertConfig(
        vocab_size=128, width=32, depth=2, heads=2, mlp_dim=64, positions=512, token_types=2
    ),
    # BERT base, uncased.
    full_config=BertConfig(
        vocab_size=30522, width=768, depth=12, heads=12, mlp_dim=3072, positions=512, token_types=2
    ),
    read_config=read_bert_config,
    rules=BERT_RULES,
    hub_id="google-bert/bert-base-uncased",
    download_gb=0.44,
    unused_tensors=UNUSED_TENSORS,
    rename_tensor=make_tensor_renamer("bert."),
)
"""The encoder that BERTScore compares captions with prompts on."""

SENTENCE = RewardModelSpec(
    name="sentence encoder",
    build_module=lambda cfg, rngs: Bert(cfg, rngs=rngs),
    tiny_config=BertConfig(
        vocab_size=128, width=32, depth=2, heads=2, mlp_dim=64, positions=514,
        first_position=2, buckets=32,
    ),
    # MPNet base: two rows of positions are for the padding id and the id before it.
    full_config=BertConfig(
        vocab_size=30527, width=768, depth=12, heads=12, mlp_dim=3072, positions=514,
        first_position=2, buckets=32,
    ),
    read_config=read_mpnet_config,
    rules=MPNET_RULES,
    hub_id="sentence-transformers/all-mpnet-base-v2",
    download_gb=0.44,
    unused_tensors=UNUSED_TENSORS,
    rename_tensor=make_tensor_renamer("mpnet."),
)  # fmt: skip
"""The encoder of the second version of ULM-R1's code, for comparing captions with prompts."""
