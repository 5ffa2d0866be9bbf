"""BLIP's folder: every name of the published model, sizes read from the file, and errors of one line."""

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
from corl_jax.porting.rules import knowingly_unused, parameters, plan
from corl_jax.reward_models.base import load_reward_model
from corl_jax.reward_models.blip.config import TEXT_FIELDS, VISION_FIELDS, read_config
from corl_jax.reward_models.blip.model import CaptionerConfig, CaptionNet
from corl_jax.reward_models.blip.weights import CAPTIONER, TIED

TINY = CAPTIONER.tiny


@functools.cache
def foreign(cfg):
    """Every tensor of the folder at these sizes."""
    model = nnx.eval_shape(lambda: CaptionNet(cfg, rngs=nnx.Rngs(0)))
    return plan(
        {path: leaf.shape for path, leaf in flatten_abstract(model).items()}, CAPTIONER.rules
    )


@pytest.fixture(scope="module")
def here():
    return Sharder(make_mesh({"data": 1}, jax.devices()[:1]))


@pytest.fixture(scope="module")
def params(random_params):
    """Numbers for the sizes of ``tiny``."""
    return random_params(nnx.eval_shape(lambda: CaptionNet(TINY, rngs=nnx.Rngs(0))))


@pytest.fixture
def folder(params, tmp_path):
    """A folder with them, in the foreign layout."""

    def get(piece):
        return params[piece.path] if piece.layer is None else params[piece.path][piece.layer]

    save_file(
        {name: t.outward(get) for name, t in foreign(TINY).items()}, tmp_path / "model.safetensors"
    )
    parts = {
        "vision_config": {
            theirs: vars(TINY.vision)[ours] for ours, (theirs, _) in VISION_FIELDS.items()
        },
        "text_config": {theirs: vars(TINY.text)[ours] for ours, (theirs, _) in TEXT_FIELDS.items()},
    }
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "blip"} | parts))
    return tmp_path


def test_every_name_of_the_published_model_is_known(test_data):
    lines = (test_data("spec/keys") / "blip_base_keys.txt").read_text("utf-8").splitlines()
    published = {
        name: tuple(ast.literal_eval(shape)) for name, shape in (line.split("\t") for line in lines)
    }
    ours = {name: tensor.shape for name, tensor in foreign(CaptionerConfig()).items()}
    assert len(published) == 473 and not ours.keys() - published.keys()
    assert ours == {name: published[name] for name in ours}
    assert published.keys() - ours.keys() == set(TIED.values())
    assert all(knowingly_unused(name, CAPTIONER.unused) for name in published.keys() - ours.keys())


def test_the_published_size():
    tensors = foreign(CaptionerConfig())
    assert parameters(tensors) == 223_971_644
    assert (
        parameters({n: t for n, t in tensors.items() if n.startswith("vision_model.")})
        == 86_090_496
    )


def test_a_folder_comes_in_as_it_went_out(folder, params, here):
    again = load_reward_model(CAPTIONER, str(folder), here)
    assert again.cfg == TINY and again.params.keys() == params.keys()
    for path, leaf in params.items():
        np.testing.assert_array_equal(again.params[path], leaf, path)


def test_a_tied_tensor_may_lie_under_either_name_or_both(folder, params, here):
    tensors = load_file(folder / "model.safetensors")
    buffer = {"text_decoder.bert.embeddings.position_ids": np.arange(4)[None]}
    both = tensors | {other: tensors[name] for name, other in TIED.items()} | buffer
    other = {name: tensor for name, tensor in both.items() if name not in TIED}
    for written in (both, other):
        save_file(written, folder / "model.safetensors")
        again = load_reward_model(CAPTIONER, str(folder), here).params
        for path in ("text/words/embedding", "text/bias"):
            np.testing.assert_array_equal(again[path], params[path])


def test_a_missing_tensor_is_one_clear_error(folder, here):
    tensors = load_file(folder / "model.safetensors")
    del tensors["text_decoder.bert.encoder.layer.1.crossattention.self.key.bias"]
    save_file(tensors | {"itm_head.weight": np.zeros(2, np.float32)}, folder / "model.safetensors")
    with pytest.raises(
        UserError, match=r"missing: .*layer\.1\.crossattention.self.key.bias; not used: itm_head"
    ) as e:
        load_reward_model(CAPTIONER, str(folder), here)
    assert "\n" not in str(e.value)


def test_sizes_are_those_of_the_file_and_else_of_transformers():
    assert (
        read_config({"model_type": "blip", "text_config": {"num_attention_heads": 12}}, "x")
        == CaptionerConfig()
    )
    assert read_config({"model_type": "blip"}, "x").text.heads == 8
    transformers = pytest.importorskip("transformers")
    theirs = transformers.BlipConfig()
    for part, fields in ((theirs.vision_config, VISION_FIELDS), (theirs.text_config, TEXT_FIELDS)):
        assert {name: part.to_dict()[name] for name, _ in fields.values()} == dict(fields.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "bert"}, "'x' holds a model of type 'bert'; expected 'blip'"),
        ({"text_config": [1]}, "text_config=\\[1\\]; expected an object"),
        (
            {"text_config": {"num_hidden_layers": "12"}},
            "num_hidden_layers='12'; expected a whole number, 1 or more",
        ),
        (
            {"vision_config": {"image_size": [384, 384]}},
            "image_size=\\[384, 384\\]; expected a whole number",
        ),
        (
            {"vision_config": {"num_attention_heads": 0}},
            "num_attention_heads=0; expected a whole number, 1 or more",
        ),
        ({"vision_config": {"layer_norm_eps": True}}, "layer_norm_eps=True; expected a number"),
        (
            {"vision_config": {"hidden_act": "quick_gelu"}},
            "hidden_act='quick_gelu'; this program builds 'gelu'",
        ),
        (
            {"text_config": {"num_attention_heads": 5}},
            "hidden_size % num_attention_heads=3; this program builds 0",
        ),
        ({"text_config": {"vocab_size": 30000}}, "ids beyond vocab_size=30000"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings=False; this program builds True"),
    ],
)
def test_what_we_do_not_build_is_named(change, message):
    with pytest.raises(UserError, match=message) as error:
        read_config({"model_type": "blip"} | change, "x")
    assert "\n" not in str(error.value)
