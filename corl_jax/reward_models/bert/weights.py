"""BERT and MPNet folders of the Hugging Face hub as reward models: tables of tensors, sizes, small twins.

In: ``config.json`` and tensor names of transformers. Out: the kinds ``BERT`` and ``SENTENCE`` for ``open_net``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from corl_jax.core.errors import UserError
from corl_jax.porting.rules import LINEAR, SAME, Rule
from corl_jax.reward_models.base import RewardModelSpec
from corl_jax.reward_models.bert.model import Bert, BertConfig

MPNET_BUCKETS = 32
MPNET_PADDING = 1
"""Constants in the code of ``MPNetModel``, whatever its config says."""


def _part(foreign: str, ours: str) -> list[Rule]:
    """Weight and bias of a norm or a linear map."""
    name, layout = ("scale", SAME) if "norm" in ours else ("kernel", LINEAR)
    return [
        Rule(f"{foreign}.weight", f"{ours}/{name}", layout),
        Rule(f"{foreign}.bias", f"{ours}/bias"),
    ]


def _table(attention: Mapping[str, str]) -> list[Rule]:
    """The rules that the two share; ``attention`` says where in a layer our parts of attention lie."""
    layer = {
        **attention,
        "fc1": "intermediate.dense",
        "fc2": "output.dense",
        "norm2": "output.LayerNorm",
    }
    return [
        Rule("embeddings.word_embeddings.weight", "words"),
        Rule("embeddings.position_embeddings.weight", "positions"),
        *_part("embeddings.LayerNorm", "norm"),
        *(
            rule
            for ours, where in layer.items()
            for rule in _part(f"encoder.layer.{{layer}}.{where}", f"layers/{ours}")
        ),
    ]


BERT_RULES = (
    *_table(
        {
            "q_proj": "attention.self.query",
            "k_proj": "attention.self.key",
            "v_proj": "attention.self.value",
            "o_proj": "attention.output.dense",
            "norm1": "attention.output.LayerNorm",
        }
    ),
    Rule("embeddings.token_type_embeddings.weight", "types"),
)
MPNET_RULES = (
    *_table(
        {
            "q_proj": "attention.attn.q",
            "k_proj": "attention.attn.k",
            "v_proj": "attention.attn.v",
            "o_proj": "attention.attn.o",
            "norm1": "attention.LayerNorm",
        }
    ),
    Rule("encoder.relative_attention_bias.weight", "distances"),
)
UNUSED = (
    "pooler.*",
    "*.pooler.*",
    "cls.*",
    "lm_head.*",
    "embeddings.position_ids",
    "*.embeddings.position_ids",
)
"""Heads, and a buffer that older writers kept; no state of a token depends on them."""


def renamed(prefix: str) -> Callable[[str, frozenset[str]], str]:
    """How a folder may write the names of the table: behind ``prefix``, and norms as the first BERT called them."""

    def rename(name: str, found: frozenset[str]) -> str:
        if any(other.startswith(f"{prefix}embeddings.") for other in found):
            name = prefix + name
        old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        )
        return old if old in found else name

    return rename


def read_bert(raw: Any, where: str) -> BertConfig:
    """Sizes from a ``config.json`` of model type ``bert``.

    Raises:
      UserError: another type, a number missing, or a variant that our module does not build.
    """
    _expect(
        raw,
        where,
        {"model_type": "bert"},
        {"position_embedding_type": "absolute", "is_decoder": False},
    )
    return BertConfig(**_sizes(raw, where), token_types=_size(raw, where, "type_vocab_size"))


def read_mpnet(raw: Any, where: str) -> BertConfig:
    """Sizes from a ``config.json`` of model type ``mpnet``; positions begin behind the padding id.

    Raises:
      UserError: another type, a number missing, or a variant that our module does not build.
    """
    constants = {"pad_token_id": MPNET_PADDING, "relative_attention_num_buckets": MPNET_BUCKETS}
    _expect(raw, where, {"model_type": "mpnet"}, constants)
    return BertConfig(**_sizes(raw, where), first_position=MPNET_PADDING + 1, buckets=MPNET_BUCKETS)


def _sizes(raw: Any, where: str) -> dict[str, Any]:
    """What the two name alike."""
    _expect(raw, where, {}, {"hidden_act": "gelu"})
    sizes = {
        ours: _size(raw, where, name)
        for ours, name in (
            ("vocab_size", "vocab_size"),
            ("width", "hidden_size"),
            ("depth", "num_hidden_layers"),
            ("heads", "num_attention_heads"),
            ("mlp_dim", "intermediate_size"),
            ("positions", "max_position_embeddings"),
        )
    }
    if sizes["width"] % sizes["heads"]:
        raise UserError(
            f"config.json in {where!r} has hidden_size={sizes['width']} for {sizes['heads']} heads, which does not "
            "divide; take the file of the original checkpoint"
        )
    return {
        **sizes,
        "norm_eps": raw.get("layer_norm_eps", 1e-12),
    }  # as transformers where it is not said


def _size(raw: Mapping[str, Any], where: str, name: str) -> int:
    if not isinstance(raw.get(name), int) or raw[name] < 1:
        raise UserError(
            f"config.json in {where!r} has {name}={raw.get(name)!r}; expected a whole number of at least 1, "
            "take the file of the original checkpoint"
        )
    return raw[name]


def _expect(raw: Any, where: str, said: Mapping[str, Any], unless_said: Mapping[str, Any]) -> None:
    """Refuses what our module does not build: values that must be ``said``, and those that may be left out."""
    if not isinstance(raw, dict):
        raise UserError(
            f"config.json in {where!r} is {type(raw).__name__}; expected an object with sizes"
        )
    for name, ours in {**said, **unless_said}.items():
        got = raw.get(name, None if name in said else ours)
        if got != ours:
            raise UserError(
                f"config.json in {where!r} has {name}={got!r}; expected {ours!r}, take another folder of the same kind"
            )


BERT = RewardModelSpec(
    name="text encoder",
    build=lambda cfg, rngs: Bert(cfg, rngs=rngs),
    tiny=BertConfig(
        vocab_size=128, width=32, depth=2, heads=2, mlp_dim=64, positions=512, token_types=2
    ),
    full=BertConfig(
        vocab_size=30522, width=768, depth=12, heads=12, mlp_dim=3072, positions=512, token_types=2
    ),
    read_config=read_bert,
    rules=BERT_RULES,
    home="google-bert/bert-base-uncased",
    gigabytes=0.44,
    unused=UNUSED,
    rename=renamed("bert."),
)
"""What BERTScore compares captions with."""

SENTENCE = RewardModelSpec(
    name="sentence encoder",
    build=lambda cfg, rngs: Bert(cfg, rngs=rngs),
    tiny=BertConfig(
        vocab_size=128,
        width=32,
        depth=2,
        heads=2,
        mlp_dim=64,
        positions=514,
        first_position=2,
        buckets=32,
    ),
    full=BertConfig(
        vocab_size=30527,
        width=768,
        depth=12,
        heads=12,
        mlp_dim=3072,
        positions=514,
        first_position=2,
        buckets=32,
    ),
    read_config=read_mpnet,
    rules=MPNET_RULES,
    home="sentence-transformers/all-mpnet-base-v2",
    gigabytes=0.44,
    unused=UNUSED,
    rename=renamed("mpnet."),
)
"""What the second version of the reference compares captions with."""
