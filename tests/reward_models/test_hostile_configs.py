"""Configs of reward models with arbitrary values: sizes within limits, or one line of error."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hostile_json import SETTINGS, VALUES, raises_at_most_a_user_error, refusal, variants
from hypothesis import given

from corl_jax.porting.size_limits import MAX_LAYERS, MAX_WIDTH
from corl_jax.reward_models.bert.weights import read_bert_config, read_mpnet_config
from corl_jax.reward_models.blip.config import MAX_TEXT_LAYERS
from corl_jax.reward_models.blip.config import read_config as read_blip_config
from corl_jax.reward_models.clip.config import read_open_clip_config, read_transformers_config

BERT = {
    "model_type": "bert",
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}
TOWER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
}
IMAGE = {"image_size": 32, "patch_size": 8}
CLIP = {
    "model_type": "clip",
    "projection_dim": 16,
    "text_config": TOWER | {"vocab_size": 99, "max_position_embeddings": 77, "eos_token_id": 98},
    "vision_config": TOWER | IMAGE | {"num_channels": 3},
    "vision_config_dict": None,
}
OPEN_CLIP = {
    "model_cfg": {
        "embed_dim": 16,
        "quick_gelu": True,
        "vision_cfg": {"layers": 2, "width": 64, "head_width": 32, "mlp_ratio": 4, **IMAGE},
        "text_cfg": {"context_length": 77, "vocab_size": 99, "width": 32, "heads": 4, "layers": 2},
    },
    "preprocess_cfg": {},
}
BLIP = {
    "model_type": "blip",
    "vision_config": TOWER | IMAGE,
    "text_config": TOWER | {"vocab_size": 99, "bos_token_id": 1, "sep_token_id": 2, "pad_token_id": 0},
}  # fmt: skip
MPNET = BERT | {"model_type": "mpnet"}
READERS = [
    (read_bert_config, BERT),
    (read_mpnet_config, MPNET),
    (read_blip_config, BLIP),
    (read_transformers_config, CLIP),
    (read_open_clip_config, OPEN_CLIP),
]


def sizes_of(cfg):
    """All numbers of a nested dataclass."""
    for value in dataclasses.astuple(cfg):
        yield from value if isinstance(value, tuple) else (value,)


@pytest.mark.parametrize(("read", "good"), READERS)
def test_no_config_ends_in_a_traceback(read, good):
    assert dataclasses.is_dataclass(read(good, "x"))

    @SETTINGS
    @given(variants(good) | VALUES)
    def check(raw):
        cfg = raises_at_most_a_user_error(read, raw, "x")
        if cfg is not None:
            numbers = [size for size in sizes_of(cfg) if type(size) in (int, float)]
            assert min(numbers) >= 0 and max(numbers) <= 2**26

    check()


@pytest.mark.parametrize(
    ("read", "raw", "message"),
    [
        (read_bert_config, BERT | {"num_hidden_layers": 10**8}, f"from 1 to {MAX_LAYERS}; got 100000"),
        (read_bert_config, BERT | {"hidden_size": "32"}, "hidden_size in .* whole number .*; got '32'"),
        (read_bert_config, BERT | {"is_decoder": 1}, "is_decoder in .* must be False; got 1"),
        (read_bert_config, [BERT], "config.json of 'x' must be a JSON object; got a list"),
        (read_mpnet_config, MPNET | {"max_position_embeddings": 2}, "max_position_embeddings .*; got 2"),
        (read_mpnet_config, MPNET | {"layer_norm_eps": None}, "layer_norm_eps in .*; got None"),
        (read_blip_config, BLIP | {"text_config": TOWER | {"num_hidden_layers": 101}},
         f"text_config.num_hidden_layers in .* at most {MAX_TEXT_LAYERS}; got 101"),
        (read_blip_config, BLIP | {"text_config": TOWER | {"bos_token_id": -1}}, "bos_token_id .*; got -1"),
        (read_transformers_config, CLIP | {"text_config": "x"}, "text_config in .* object; got a text"),
        (read_transformers_config, CLIP | {"projection_dim": 2**30}, f"from 1 to {MAX_WIDTH}; got"),
        (read_transformers_config, CLIP | {"vision_config_dict": {"image_size": 10**6}},
         "vision_config.image_size in .* from 1 to 8192; got 1000000"),
        (read_open_clip_config, {"model_cfg": OPEN_CLIP["model_cfg"] | {"quick_gelu": "no"}},
         "model_cfg.quick_gelu in .* must be true or false; got 'no'"),
        (read_open_clip_config, {}, "model_cfg in open_clip_config.json of 'x' .* got nothing"),
    ],
)  # fmt: skip
def test_values_that_are_refused(read, raw, message):
    assert re.search(message, text := refusal(read, raw, "x")), text
