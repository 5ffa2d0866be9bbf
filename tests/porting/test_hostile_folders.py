"""Model folders with one small change: read as transformers reads them, or one line that says why.

Every row of a table changes a good folder.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import shutil
from typing import Any

import pytest
from hostile_json import SETTINGS, VALUES, raises_at_most_a_user_error, refusal, variants
from hypothesis import given

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.models.janus.config import JANUS_PRO_1B, TINY, JanusConfig
from corl_jax.porting.janus.folder import JanusFolder, load_config
from corl_jax.porting.janus.hf_config import image_token_id, write_config
from corl_jax.porting.janus.hf_config import read_config as read_hf_config
from corl_jax.porting.janus.layouts import detect_layout
from corl_jax.porting.janus.original_config import read_config as read_original_config
from corl_jax.porting.janus.original_config import write_config as write_original_config
from corl_jax.porting.janus.processor_config import check_image_processor
from corl_jax.porting.policy_source import config_from_json, config_to_json

ABSENT = object()

Change = dict[str, Any]
"""Dotted key of a file -> its new value."""


def change_file(file: pathlib.Path, change: Change) -> None:
    """Rewrites a JSON file; a change of the key "" replaces all of it."""
    content = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    for key, value in change.items():
        *blocks, name = key.split(".")
        block = content
        for part in blocks:
            block = block.setdefault(part, {})
        if value is ABSENT:
            del block[name]
        else:
            block[name] = value
    file.write_text(json.dumps(change.get("", content)), "utf-8")


@pytest.fixture
def copy(dot_policy_folder, tmp_path):
    """A good folder whose small files may be changed; its weights are a link."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in dot_policy_folder.iterdir():
        if file.suffix == ".safetensors":
            (folder / file.name).symlink_to(file)
        else:
            shutil.copy(file, folder)
    return folder


# Changes of config.json that leave the model as it is, or change the named sizes.
CONFIGS_READ: list[tuple[Change, dict[str, Any]]] = [
    ({"text_config.rope_theta": None, "text_config.rope_parameters": {
        "rope_type": "default", "rope_theta": 5e5}}, {"rope_theta": 5e5}),
    # The object comes before the entry beside it.
    ({"text_config.rope_parameters": {"rope_theta": 5e5}}, {"rope_theta": 5e5}),
    ({"text_config.rope_parameters": {"rope_type": "default"}}, {}),
    ({"text_config.rope_scaling": None, "text_config.rope_parameters": None}, {}),
    ({"text_config.rope_scaling": {}}, {}),
    ({"text_config.rope_scaling": {"type": "default"}}, {}),
    ({"text_config.rope_scaling": {"rope_type": "default", "rope_theta": 7.0},
      "text_config.rope_parameters": {"rope_type": "linear", "factor": 2.0}}, {"rope_theta": 7.0}),
    ({"text_config.rope_theta": ABSENT}, {}),
    ({"text_config.rope_theta": 20000}, {"rope_theta": 20000}),
    ({"text_config.head_dim": None}, {}),
    ({"text_config.head_dim": ABSENT}, {}),
    ({"text_config.num_key_value_heads": None}, {}),
    ({"text_config.num_key_value_heads": ABSENT}, {}),
    ({"text_config.rms_norm_eps": ABSENT}, {}),
    ({"text_config.rms_norm_eps": 1e-5}, {"norm_eps": 1e-5}),
    ({"text_config.hidden_act": ABSENT, "text_config.attention_bias": ABSENT}, {}),
    ({"text_config.max_position_embeddings": ABSENT}, {"max_length": 2048}),
    ({"vision_config.hidden_act": ABSENT, "vision_config.depth": ABSENT}, {}),
    ({"vq_config.double_latent": ABSENT, "vq_config.hidden_act": ABSENT}, {}),
    ({"vq_config.num_hidden_layers": ABSENT, "vq_config.num_patches": ABSENT}, {}),
    ({"tie_word_embeddings": ABSENT}, {}),
    ({"unknown": [1, {"a": None}], "text_config.unknown": "x"}, {}),
]  # fmt: skip

# What errors must say.
CONFIGS_REFUSED: list[tuple[Change, str]] = [
    ({"text_config.rope_scaling": {"type": "linear", "factor": 4.0}},
     "text_config.rope_scaling.type in config.json of .* must be 'default', since .*; got 'linear'"),
    ({"text_config.rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
     "text_config.rope_scaling.rope_type in .* must be 'default', .*; got 'llama3'"),
    ({"text_config.rope_parameters": {"rope_type": "yarn", "factor": 2.0}},
     "text_config.rope_parameters.rope_type in .*; got 'yarn'"),
    ({"text_config.rope_parameters": {"full_attention": {"rope_theta": 5.0}}},
     "text_config.rope_parameters.full_attention in .* must be a number or a text"),
    ({"text_config.rope_scaling": "linear"}, "rope_scaling in .* must be a JSON object; got a text"),
    ({"text_config.rope_theta": None}, "text_config.rope_theta in .* must be a number .*; got None"),
    ({"text_config.rope_theta": "10000"}, "rope_theta in .* must be a number .*; got '10000'"),
    ({"text_config.rope_theta": 0}, "rope_theta in .* must be a number of at least 1; got 0"),
    ({"text_config.partial_rotary_factor": 0.5}, "partial_rotary_factor in .* must be 1; got 0.5"),
    ({"text_config.num_hidden_layers": 100_000_000}, "num_hidden_layers .* from 1 to 1000; got 1000"),
    ({"text_config.num_hidden_layers": 0}, "num_hidden_layers in .* from 1 to 1000; got 0"),
    ({"text_config.num_hidden_layers": True}, "num_hidden_layers in .* whole number .*; got True"),
    ({"text_config.hidden_size": "32"}, "text_config.hidden_size in .* whole number .*; got '32'"),
    ({"text_config.hidden_size": 32.0}, "hidden_size in .* must be a whole number .*; got 32.0"),
    ({"text_config.hidden_size": None}, "hidden_size in .* must be a whole number .*; got None"),
    ({"text_config.vocab_size": 10**12}, "vocab_size in .* from 1 to 4194304; got 1000000000000"),
    ({"text_config.num_attention_heads": -2}, "num_attention_heads in .*; got -2"),
    ({"text_config.num_key_value_heads": 0}, "num_key_value_heads in .* from 1 to 4096; got 0"),
    ({"text_config.head_dim": 15}, "num_attention_heads in .* must be such that heads of an even"),
    ({"text_config.rms_norm_eps": -1e-6}, "rms_norm_eps in .* must be a number from 0 to 1; got -1e"),
    ({"text_config.rms_norm_eps": "1e-6"}, "rms_norm_eps in .* must be a number .*; got '1e-6'"),
    ({"text_config.hidden_act": "gelu"}, "text_config.hidden_act in .* must be 'silu'; got 'gelu'"),
    ({"text_config.attention_bias": True}, "attention_bias in .* must be False; got True"),
    ({"text_config.model_type": "qwen2"}, "text_config.model_type in .* must be 'llama'; got 'qwen2'"),
    ({"text_config": [1]}, "text_config in config.json of .* must be a JSON object; got a list"),
    ({"vision_config.image_size": [16, 16]}, r"image_size in .* whole number .*; got \[16, 16\]"),
    ({"vision_config.image_size": 10**9}, "image_size in .* from 1 to 8192; got 1000000000"),
    ({"vision_config.patch_size": 0}, "vision_config.patch_size in .*; got 0"),
    ({"vision_config.num_attention_heads": 5}, "vision_config.num_attention_heads .* divisor of the"),
    ({"vision_config.mlp_ratio": 1e300}, "vision_config.mlp_ratio in .*; got 1e"),
    ({"vision_config.mlp_ratio": None}, "vision_config.mlp_ratio in .* must be a number .*; got None"),
    ({"vision_config.use_qk_norm": True}, "vision_config.use_qk_norm in .* must be False; got True"),
    ({"vision_config.num_image_tokens": ABSENT}, "num_image_tokens in .* must be 4; got nothing"),
    ({"vision_config": {}}, "num_image_tokens|the image tokenizer shrinks 384 px"),
    ({"vq_config.double_latent": True}, "vq_config.double_latent in .* must be False; got True"),
    ({"vq_config.hidden_act": "relu"}, "vq_config.hidden_act in .* must be 'gelu'; got 'relu'"),
    ({"vq_config.num_hidden_layers": 3}, "vq_config.num_hidden_layers in .* must be 2; got 3"),
    ({"vq_config.channel_multiplier": []}, "channel_multiplier in .* a list of 1 to 8 whole"),
    ({"vq_config.channel_multiplier": [1] * 10_000}, "channel_multiplier in .* a list of 1 to 8"),
    ({"vq_config.channel_multiplier": "1111"}, "channel_multiplier in .* list .*; got '1111'"),
    ({"vq_config.num_res_blocks": 10**6}, "num_res_blocks in .* from 0 to 8; got 1000000"),
    ({"vq_config.base_channels": None}, "vq_config.base_channels in .*; got None"),
    ({"vq_config.projection_dim": "32"}, "vq_config.projection_dim in .*; got '32'"),
    ({"model_type": "llava"}, "must be of type 'janus' .*; got 'llava'"),
    ({"model_type": ["janus"]}, "must be of type 'janus' .*; got "),
]  # fmt: skip


@pytest.mark.parametrize(("change", "sizes"), CONFIGS_READ)
def test_configs_that_are_read(copy, change, sizes):
    original = load_config(copy)
    change_file(copy / "config.json", change)
    decoder = dataclasses.replace(original.decoder, **sizes)
    assert load_config(copy) == dataclasses.replace(original, decoder=decoder)


@pytest.mark.parametrize(("change", "sizes"), CONFIGS_READ)
def test_transformers_reads_them_alike(copy, change, sizes):
    transformers = pytest.importorskip("transformers")
    change_file(copy / "config.json", change)
    theirs = transformers.AutoConfig.from_pretrained(copy)
    assert_same_sizes(load_config(copy), theirs)
    for field in sizes:
        # The change is one that transformers acts on.
        names = {"norm_eps": "rms_norm_eps", "max_length": "max_position_embeddings"}
        if field in names:
            assert vars(theirs.text_config)[names[field]] == sizes[field]


def test_absent_entries_have_the_defaults_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    # Nothing but the two entries whose defaults fit no other.
    content = {"model_type": "janus", "vision_config": {"num_image_tokens": 576}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert_same_sizes(load_config(tmp_path), theirs)
    assert image_token_id(content, 0, 0) == theirs.image_token_id


def assert_same_sizes(cfg: JanusConfig, theirs: Any) -> None:
    """Compares with a config that transformers has read."""
    text, vision, vq = theirs.text_config, theirs.vision_config, theirs.vq_config
    assert dataclasses.astuple(cfg.decoder) == (
        text.vocab_size, text.hidden_size, text.num_hidden_layers, text.num_attention_heads,
        text.num_key_value_heads, text.head_dim, text.intermediate_size, text.rms_norm_eps,
        text.rope_parameters["rope_theta"], text.max_position_embeddings,
    )  # fmt: skip
    assert text.rope_parameters["rope_type"] == "default"
    assert dataclasses.astuple(cfg.vision) == (
        vision.image_size, vision.patch_size, vision.hidden_size, vision.num_hidden_layers,
        vision.num_attention_heads, int(vision.hidden_size * vision.mlp_ratio),
        vision.layer_norm_eps,
    )  # fmt: skip
    assert dataclasses.astuple(cfg.image_tokenizer) == (
        vq.num_embeddings, vq.embed_dim, vq.latent_channels, vq.base_channels,
        tuple(vq.channel_multiplier), vq.num_res_blocks,
    )  # fmt: skip


@pytest.mark.parametrize(("change", "message"), CONFIGS_REFUSED)
def test_configs_that_are_refused(copy, change, message):
    change_file(copy / "config.json", change)
    assert re.search(message, text := refusal(load_config, copy)), text


@pytest.mark.parametrize("change", [{"text_config.num_hidden_layers": 3}, {"text_config": {}}])
def test_sizes_that_the_weights_do_not_have(copy, change):
    change_file(copy / "config.json", change)
    assert "do not fit its config.json (missing: model.language" in refusal(JanusFolder, copy)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "config.json' is not JSON"),
        (b"\xff\xfe{}", "config.json' must be text in UTF-8; got byte 0xff at position 0"),
        (b'{"model_type": "janus", "model_type": "llava"}', "has the key 'model_type' twice"),
        (b'{"model_type": "janus", "x": NaN}', "x in .*config.json' must be a finite number"),
        (b"[" * 10**6, "config.json' must have at most 64 objects and lists inside each other"),
        (b"[1, 2]", "config.json of .* must be a JSON object; got a list"),
        (b"null", "config.json of .* must be a JSON object; got nothing"),
    ],
)
def test_configs_that_are_no_json_object(copy, content, message):
    (copy / "config.json").write_bytes(content)
    assert re.search(message, text := refusal(load_config, copy)), text


# Settings of the image processor: file, change, and the error or None.
PROCESSORS: list[tuple[str, Change, str | None]] = [
    ("preprocessor_config.json", {"image_mean": None}, r"image_mean in .*0.5, 0.5\]; got None"),
    ("preprocessor_config.json", {"image_mean": ABSENT}, r"must be \[0.5, .*\]; got nothing"),
    ("preprocessor_config.json", {"image_mean": 0.5}, r"image_mean in .*\]; got 0.5"),
    ("preprocessor_config.json", {"image_std": [0.26, 0.26, 0.27]}, r"image_std .* got \[0.26"),
    ("preprocessor_config.json", {"do_normalize": False}, "do_normalize in .* True; got False"),
    ("preprocessor_config.json", {"do_normalize": None}, "do_normalize in .* True; got None"),
    ("preprocessor_config.json", {"do_normalize": True, "do_convert_rgb": True}, None),
    ("preprocessor_config.json", {"do_rescale": "true"}, "do_rescale in .* True; got 'true'"),
    ("preprocessor_config.json", {"rescale_factor": 1 / 127.5}, "rescale_factor in .*; got 0.00784"),
    ("preprocessor_config.json", {"rescale_factor": ABSENT}, None),
    ("preprocessor_config.json", {"size": {"height": 384, "width": 384}}, "size.height .* 16; got 384"),
    ("preprocessor_config.json", {"size": {"shortest_edge": 16}}, "size.height .* 16; got nothing"),
    ("preprocessor_config.json", {"size": 16}, None),
    ("preprocessor_config.json", {"size": [16, 16]}, "size in .* must be a JSON object; got a list"),
    ("preprocessor_config.json", {"image_size": 32}, "image_size in .* must be 16; got 32"),
    ("preprocessor_config.json", {"min_size": 28}, "min_size in .* must be 14; got 28"),
    ("preprocessor_config.json", {"resample": 2}, "resample in .* must be 3; got 2"),
    ("preprocessor_config.json", {"background_color": [0, 0, 0]}, "background_color in .*127, 127"),
    ("preprocessor_config.json", {"": []}, "preprocessor_config.json of .* JSON object; got a list"),
    # transformers 5 writes the settings there, and they come before the other file.
    ("processor_config.json", {"image_processor": {"image_mean": [0.48, 0.46, 0.41]}},
     r"image_processor.image_mean in processor_config.json of .*; got \[0.48"),
    ("processor_config.json", {"image_processor": {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}},
     None),
    ("processor_config.json", {"image_processor": {"image_mean": [0.5] * 3, "image_std": [1, 1, 1]}},
     r"image_processor.image_std in .*; got \[1, 1, 1\]"),
    ("processor_config.json", {"image_processor": None}, None),
    ("processor_config.json", {"image_processor": [0.5]}, "image_processor .* object; got a list"),
    ("processor_config.json", {"": "x"}, "processor_config.json of .* JSON object; got a text"),
    ("processor_config.json", {"use_default_system_prompt": True}, None),
]  # fmt: skip


@pytest.mark.parametrize(("file", "change", "message"), PROCESSORS)
def test_settings_of_the_image_processor(copy, file, change, message):
    change_file(copy / file, change)
    if message is None:
        check_image_processor(copy, 16)
    else:
        assert re.search(message, text := refusal(check_image_processor, copy, 16)), text


def test_nested_settings_come_before_the_other_file(copy):
    change_file(copy / "preprocessor_config.json", {"image_mean": [0.1] * 3})
    nested = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 16, "width": 16}}
    change_file(copy / "processor_config.json", {"image_processor": nested})
    check_image_processor(copy, 16)
    (copy / "processor_config.json").unlink()
    assert "image_mean" in refusal(JanusFolder, copy)
    (copy / "preprocessor_config.json").unlink()
    JanusFolder(copy)


# The original layout: changes of a config with all sizes listed.
ORIGINALS: list[tuple[Change, str]] = [
    ({"language_config": None}, "language_config in config.json of 'x' .* object; got nothing"),
    ({"language_config": {"hidden_size": None}}, "language_config.hidden_size in .*; got None"),
    ({"language_config": {"rope_scaling": {"type": "dynamic", "factor": 2}}},
     "language_config.rope_scaling.type in .* must be 'default', .*; got 'dynamic'"),
    ({"language_config": {"hidden_act": "relu"}}, "language_config.hidden_act in .* 'silu'"),
    ({"vision_config": {"params": []}}, "vision_config.params in .* JSON object; got a list"),
    ({"vision_config": {"params": {"model_name": 3}}}, "model_name in .* must be a text; got 3"),
    ({"vision_config": {"params": {"model_name": "siglip_large_patch16_384", "select_layer": -2}}},
     "vision_config.params.select_layer in .* must be -1; got -2"),
    ({"gen_vision_config": {"cls": "VQ-8", "params": {"image_token_size": 16384, "n_embed": 8}}},
     "gen_vision_config.params.cls in .* must be one of VQ-16, or stand next to all sizes"),
    ({"gen_vision_config": {"cls": "VQ-16", "params": {"image_token_size": "16384"}}},
     "image_token_size in .* must be a whole number .*; got '16384'"),
    ({"gen_head_config": {}}, "gen_head_config.params in .* must be a JSON object; got nothing"),
    ({"aligner_config": {"params": {"projector_type": "linear", "depth": 2}}},
     "aligner_config.params.projector_type in .* must be 'mlp_gelu'; got 'linear'"),
    ({"gen_aligner_config": {"params": {"projector_type": "mlp_gelu", "depth": 1}}},
     "gen_aligner_config.params.depth in .* must be 2; got 1"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), ORIGINALS)
def test_configs_of_the_original_layout(change, message):
    raw = write_original_config(JANUS_PRO_1B, "bfloat16") | change
    assert re.search(message, text := refusal(read_original_config, raw, "x")), text


def test_the_cases_that_were_answered_wrongly(test_data):
    cases = test_data("data/cases") / "models"
    text = refusal(load_config, cases / "rope_scaling_linear")
    assert "text_config.rope_scaling.type" in text and "got 'linear'" in text
    assert load_config(cases / "rope_theta_null") == TINY


def test_the_case_of_a_null_mean(test_data, copy):
    file = "preprocessor_config.json"
    shutil.copy(test_data("data/cases") / "models" / "image_mean_null" / file, copy / file)
    assert re.search(
        r"image_mean in .* must be \[0.5, 0.5, 0.5\]; got None", refusal(JanusFolder, copy)
    )


HF_CONFIG = write_config(TINY, "float32", image_token_id=5, bos_id=0, eos_id=1, pad_id=2)


@SETTINGS
@given(variants(HF_CONFIG))
def test_no_config_of_transformers_ends_in_a_traceback(raw):
    cfg = raises_at_most_a_user_error(read_hf_config, raw, "x")
    assert cfg is None or isinstance(cfg, JanusConfig)
    raises_at_most_a_user_error(image_token_id, raw, 0, 0)


@SETTINGS
@given(variants(write_original_config(TINY, "float32")))
def test_no_config_of_the_original_layout_ends_in_a_traceback(raw):
    cfg = raises_at_most_a_user_error(read_original_config, raw, "x")
    assert cfg is None or isinstance(cfg, JanusConfig)


@SETTINGS
@given(VALUES)
def test_no_value_has_a_layout_by_accident(value):
    assert raises_at_most_a_user_error(detect_layout, value, "x") is None


@SETTINGS
@given(variants(config_to_json(TINY)))
def test_no_manifest_ends_in_a_traceback(model):
    def read():
        return config_from_json(JsonObject(model, "the manifest"))

    cfg = raises_at_most_a_user_error(read)
    assert cfg is None or isinstance(cfg, JanusConfig)


def test_a_manifest_is_read_back():
    assert config_from_json(JsonObject(config_to_json(TINY), "the manifest")) == TINY
