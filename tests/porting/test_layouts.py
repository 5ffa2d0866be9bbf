"""Both published layouts and every kind of weight file give the same parameters, and go out again as they came in."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from corl_jax.core.errors import UserError
from corl_jax.core.sharding import Sharder, make_mesh
from corl_jax.core.trees import digest, flatten_abstract
from corl_jax.models.janus.config import JANUS_PRO_1B, JANUS_PRO_7B
from corl_jax.models.janus.model import abstract, logical_axes
from corl_jax.porting.janus.folder import Folder, foreign_plan, load_config, load_params
from corl_jax.porting.janus.layouts import FORMATS
from corl_jax.porting.janus.original_config import read_config, write_config
from corl_jax.porting.rules import Rule, knowingly_unused, parameters, plan
from corl_jax.porting.writer import carried, save_folder
from tests.porting.original import to_original, write_original


@pytest.mark.parametrize(
    ("layout", "size", "cfg", "count"),
    [
        ("original", "1b", JANUS_PRO_1B, 2_089_297_547),
        ("original", "7b", JANUS_PRO_7B, 7_420_434_059),
        ("transformers", "1b", JANUS_PRO_1B, 2_076_636_811),
        ("transformers", "7b", JANUS_PRO_7B, 7_407_773_323),
    ],
)
def test_every_released_name_is_used_or_knowingly_unused(test_data, layout, size, cfg, count):
    short = {"original": "orig", "transformers": "hf"}[layout]
    lines = (
        (test_data("spec/keys") / f"janus_{short}_keys_{size}.txt").read_text("utf-8").splitlines()
    )
    released = {
        name: tuple(json.loads(shape))
        for name, shape in (line.split("\t") for line in lines if line)
    }
    tensors = foreign_plan(cfg, FORMATS[layout])
    unused = {name for name in released if knowingly_unused(name, FORMATS[layout].unused)}
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        name: shape for name, shape in released.items() if name not in unused
    }
    assert sum(int(np.prod(shape)) for shape in released.values()) == count
    assert parameters(tensors) == count - sum(int(np.prod(released[name])) for name in unused)
    assert len(unused) == (14 if layout == "original" else 0)


@pytest.fixture
def original(pair, torch, tokenizer_folder, tmp_path):
    """The model of ``pair`` as an original folder without weights, and its tensors."""
    write_original(tmp_path / "original", pair.cfg, tokenizer_folder)
    return tmp_path / "original", to_original(torch, pair.theirs.state_dict())


def test_original_layout_from_torch_pickles(pair, torch, original):
    folder, tensors = original
    assert load_config(folder) == pair.cfg
    torch.save(tensors, folder / "pytorch_model.bin")
    assert digest(load_params(folder, pair.cfg)) == digest(pair.params)
    assert Folder(folder).reader.unused() == [
        "gen_vision_model.quantize.codebook_used",
        "vision_model.vision_tower.attn_pool.latent",
    ]
    (folder / "pytorch_model.bin").unlink()
    names = sorted(tensors)
    for i, part in enumerate((names[::2], names[1::2])):
        torch.save(
            {name: tensors[name] for name in part},
            folder / f"pytorch_model-0000{i + 1}-of-00002.bin",
        )
    assert digest(load_params(folder, pair.cfg)) == digest(pair.params)


def test_original_layout_from_safetensors_in_bfloat16(pair, torch, original):
    from safetensors.torch import save_file

    folder, tensors = original
    save_file(
        {name: tensor.bfloat16() for name, tensor in tensors.items()}, folder / "model.safetensors"
    )
    rounded = {
        path: np.asarray(leaf.astype("bfloat16").astype("float32"))
        for path, leaf in pair.params.items()
    }
    assert digest(load_params(folder, pair.cfg)) == digest(rounded)
    reader = Folder(folder).reader
    assert {str(reader.dtype(path)) for path in rounded} == {"bfloat16"}


def test_transformers_names_without_their_prefix(pair, tmp_path):
    from safetensors.numpy import load_file, save_file

    (tmp_path / "config.json").write_bytes((pair.folder / "config.json").read_bytes())
    tensors = load_file(pair.folder / "model.safetensors")
    save_file(
        {name.removeprefix("model."): t for name, t in tensors.items()},
        tmp_path / "model.safetensors",
    )
    assert digest(load_params(tmp_path, pair.cfg)) == digest(pair.params)


def test_layers_filled_in_place_give_the_same_bits(pair, monkeypatch):
    monkeypatch.setattr("corl_jax.porting.reader.WHOLE", 1000)
    assert digest(load_params(pair.folder, pair.cfg)) == digest(pair.params)


@pytest.mark.parametrize("whole", [2**28, 1000])
def test_parameters_are_born_in_their_placement(pair, monkeypatch, whole):
    monkeypatch.setattr("corl_jax.porting.reader.WHOLE", whole)
    model = abstract(pair.cfg)
    axes, sharder = logical_axes(model), Sharder(make_mesh({"data": 2, "fsdp": 2, "tensor": 2}))
    wanted = {
        path: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=sharder.checked_sharding(leaf.shape, axes[path], path)
        )
        for path, leaf in flatten_abstract(model).items()
    }
    params = Folder(pair.folder).reader.params(wanted)
    assert digest(params) == digest(pair.params)
    assert all(params[path].sharding == struct.sharding for path, struct in wanted.items())
    assert len(params["language_model/layers/gate_proj/kernel"].addressable_shards) == 8
    part = params["language_model/layers/gate_proj/kernel"].addressable_shards[0].data.shape
    assert np.prod(part) * 4 == np.prod(wanted["language_model/layers/gate_proj/kernel"].shape)


def test_original_layout_goes_out_as_it_came_in(pair, torch, original, tmp_path):
    folder, tensors = original
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "processor_config.json").write_text('{"mask_prompt": true, "surprise": 1}', "utf-8")
    source, out = Folder(folder), tmp_path / "again"
    layout = FORMATS["original"]
    save_folder(
        pair.params,
        pair.cfg,
        folder,
        out,
        layout=layout,
        unused=carried(source, layout),
        shard_bytes=10**6,
    )
    again = Folder(out)
    assert again.reader.weights.headers.keys() == tensors.keys() and again.cfg == pair.cfg
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(again.reader.weights.read(name), tensor.numpy(), err_msg=name)
    index = json.loads((out / "model.safetensors.index.json").read_text("utf-8"))
    assert (
        index["weight_map"].keys() == tensors.keys() and len(set(index["weight_map"].values())) > 1
    )
    assert json.loads((out / "processor_config.json").read_text("utf-8"))["surprise"] == 1
    assert (out / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_original_layout_to_transformers(pair, torch, original, tmp_path):
    from transformers import JanusForConditionalGeneration

    folder, tensors = original
    torch.save(tensors, folder / "pytorch_model.bin")
    save_folder(load_params(folder, pair.cfg), pair.cfg, folder, tmp_path / "out", dtype="float32")
    theirs, info = JanusForConditionalGeneration.from_pretrained(
        tmp_path / "out", output_loading_info=True, dtype=torch.float32
    )
    assert not any(info.values()), info
    for name, tensor in pair.theirs.state_dict().items():
        assert torch.equal(theirs.state_dict()[name], tensor), name


@pytest.mark.parametrize("cfg", [JANUS_PRO_1B, JANUS_PRO_7B])
def test_released_sizes_need_no_numbers_beside_the_names(cfg):
    raw = write_config(cfg, "bfloat16")
    assert raw["vision_config"]["params"].keys() == {
        "model_name",
        "select_feature",
        "select_layer",
        "image_size",
    }
    assert raw["gen_vision_config"]["params"] == {"image_token_size": 16384, "n_embed": 8}
    assert read_config(raw, "here") == cfg
    for name in (
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
    ):
        if cfg is JANUS_PRO_7B:  # the released file leaves out what is Llama's default
            del raw["language_config"][name]
    assert read_config(raw, "here") == cfg


def test_parts_that_this_program_does_not_build():
    raw = write_config(JANUS_PRO_1B, "bfloat16")
    raw["vision_config"]["params"]["model_name"] = "siglip_so400m_patch14_384"
    with pytest.raises(
        UserError, match="names model_name='siglip_so400m_patch14_384'; expected siglip_large"
    ):
        read_config(raw, "here")
    raw = write_config(JANUS_PRO_1B, "bfloat16")
    raw["aligner_config"]["params"]["projector_type"] = "low_high_hybrid_split_mlp_gelu"
    with pytest.raises(UserError, match="aligner_config .*this program builds"):
        read_config(raw, "here")
    for broken in (
        {"language_config": None},
        {"gen_head_config": {}},
        {"vision_config": {"params": []}},
    ):
        with pytest.raises(UserError, match="config.json in 'here'"):
            read_config(write_config(JANUS_PRO_1B, "bfloat16") | broken, "here")


def test_tables_that_are_incomplete_say_so():
    with pytest.raises(ValueError, match="no porting rule for our parameter 'b'"):
        plan({"a": (2,), "b": (2,)}, [Rule("x", "a")])
    with pytest.raises(ValueError, match=r"fills only the parts \[1\] of 'x'"):
        plan({"a": (2,)}, [Rule("x", "a", part=(1, 3))])
