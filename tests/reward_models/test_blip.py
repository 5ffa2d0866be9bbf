"""BLIP from a folder: every name of the published model, sizes of its config, bad folders."""

from __future__ import annotations

import ast
import functools
import json

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from corl_jax.core.errors import UserError
from corl_jax.core.sharding import Sharder, make_mesh
from corl_jax.core.trees import flatten_abstract
from corl_jax.porting.rules import checkpoint_tensors, count_parameters, is_unused
from corl_jax.reward_models.base import load_reward_model
from corl_jax.reward_models.blip.config import TEXT_FIELDS, VISION_FIELDS, read_config
from corl_jax.reward_models.blip.model import BlipConfig, BlipModel
from corl_jax.reward_models.blip.weights import CAPTIONER, TIED_TENSORS

TINY = CAPTIONER.tiny_config


@functools.cache
def blip_tensors(cfg):
    """Every tensor of a folder of these sizes."""
    model = nnx.eval_shape(lambda: BlipModel(cfg, rngs=nnx.Rngs(0)))
    return checkpoint_tensors(
        {path: leaf.shape for path, leaf in flatten_abstract(model).items()}, CAPTIONER.rules
    )


@pytest.fixture(scope="module")
def sharder():
    return Sharder(make_mesh({"data": 1}, jax.devices()[:1]))


@pytest.fixture(scope="module")
def params(random_params):
    """Random parameters of the tiny model."""
    return random_params(nnx.eval_shape(lambda: BlipModel(TINY, rngs=nnx.Rngs(0))))


@pytest.fixture
def folder(params, tmp_path):
    """A folder with those parameters, in the layout of transformers."""

    def get(piece):
        return params[piece.path] if piece.layer is None else params[piece.path][piece.layer]

    tensors = {name: tensor.assemble(get) for name, tensor in blip_tensors(TINY).items()}
    save_file(tensors, tmp_path / "model.safetensors")
    blocks = {
        "vision_config": {
            name: vars(TINY.vision)[field] for field, (name, _) in VISION_FIELDS.items()
        },
        "text_config": {name: vars(TINY.text)[field] for field, (name, _) in TEXT_FIELDS.items()},
    }
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "blip"} | blocks))
    return tmp_path


def test_every_name_of_the_published_model_is_known(test_data):
    lines = (test_data("spec/keys") / "blip_base_keys.txt").read_text("utf-8").splitlines()
    published = {
        name: tuple(ast.literal_eval(shape)) for name, shape in (line.split("\t") for line in lines)
    }
    used = {name: tensor.shape for name, tensor in blip_tensors(BlipConfig()).items()}
    assert len(published) == 473 and not used.keys() - published.keys()
    assert used == {name: published[name] for name in used}
    assert published.keys() - used.keys() == set(TIED_TENSORS.values())
    assert all(is_unused(name, CAPTIONER.unused_tensors) for name in published.keys() - used.keys())


def test_the_published_size():
    tensors = blip_tensors(BlipConfig())
    assert count_parameters(tensors) == 223_971_644
    tower = {name: tensor for name, tensor in tensors.items() if name.startswith("vision_model.")}
    assert count_parameters(tower) == 86_090_496


def test_a_folder_gives_the_parameters_that_were_written(folder, params, sharder):
    model = load_reward_model(CAPTIONER, str(folder), sharder)
    assert model.cfg == TINY and model.params.keys() == params.keys()
    for path, leaf in params.items():
        np.testing.assert_array_equal(model.params[path], leaf, path)


def test_a_tied_tensor_may_have_either_name_or_both(folder, params, sharder):
    tensors = load_file(folder / "model.safetensors")
    buffer = {"text_decoder.bert.embeddings.position_ids": np.arange(4)[None]}
    second_names = {second: tensors[first] for first, second in TIED_TENSORS.items()}
    with_both = tensors | second_names | buffer
    with_second = {name: tensor for name, tensor in with_both.items() if name not in TIED_TENSORS}
    for file_tensors in (with_both, with_second):
        save_file(file_tensors, folder / "model.safetensors")
        loaded = load_reward_model(CAPTIONER, str(folder), sharder).params
        for path in ("text/words/embedding", "text/bias"):
            np.testing.assert_array_equal(loaded[path], params[path])


def test_a_missing_tensor_is_one_clear_error(folder, sharder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["text_decoder.bert.encoder.layer.1.crossattention.self.key.bias"]
    save_file(tensors | {"itm_head.weight": np.zeros(2, np.float32)}, folder / "model.safetensors")
    with pytest.raises(
        UserError, match=r"missing: .*layer\.1\.crossattention.self.key.bias; not used: itm_head"
    ) as error:
        load_reward_model(CAPTIONER, str(folder), sharder)
    assert "\n" not in str(error.value)


def test_sizes_are_those_of_the_file_with_the_defaults_of_transformers():
    raw = {"model_type": "blip", "text_config": {"num_attention_heads": 12}}
    assert read_config(raw, "x") == BlipConfig()
    assert read_config({"model_type": "blip"}, "x").text.heads == 8
    transformers = pytest.importorskip("transformers")
    config = transformers.BlipConfig()
    for block, fields in ((config.vision_config, VISION_FIELDS), (config.text_config, TEXT_FIELDS)):
        defaults = {name: block.to_dict()[name] for name, _ in fields.values()}
        assert defaults == dict(fields.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model_type": "bert"},
            "model_type in .*'x' must be 'blip'; got 'bert'; take a captioner",
        ),
        ({"text_config": [1]}, "text_config in .* must be a JSON object; got a list"),
        (
            {"text_config": {"num_hidden_layers": "12"}},
            "text_config.num_hidden_layers in .* must be a whole number from 1 to .*; got '12'",
        ),
        (
            {"vision_config": {"image_size": [384, 384]}},
            r"vision_config.image_size in .* must be a whole number from 1 .*; got \[384, 384\]",
        ),
        (
            {"vision_config": {"num_attention_heads": 0}},
            "vision_config.num_attention_heads in .* must be a whole number from 1 to .*; got 0",
        ),
        (
            {"vision_config": {"layer_norm_eps": True}},
            "vision_config.layer_norm_eps in .* must be a number from 0 to 1; got True",
        ),
        (
            {"vision_config": {"hidden_act": "quick_gelu"}},
            "vision_config.hidden_act .* must be 'gelu'; got 'quick_gelu'",
        ),
        (
            {"text_config": {"num_attention_heads": 5}},
            "text_config.num_attention_heads in .* must be a divisor of hidden_size=768; got 5",
        ),
        (
            {"text_config": {"vocab_size": 30000}},
            "text_config.bos_token_id in .* must be below vocab_size=30000; got nothing",
        ),
        ({"tie_word_embeddings": False}, "tie_word_embeddings .* must be True; got False"),
    ],
)
def test_variants_that_are_not_implemented_are_named(change, message):
    with pytest.raises(UserError, match=message) as error:
        read_config({"model_type": "blip"} | change, "x")
    assert "\n" not in str(error.value)
