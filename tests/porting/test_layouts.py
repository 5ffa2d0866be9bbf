"""Both layouts and every format of weight file give the same parameters; exports equal imports."""

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
from corl_jax.porting.janus.folder import JanusFolder, janus_tensors, load_config, load_params
from corl_jax.porting.janus.layouts import LAYOUTS
from corl_jax.porting.janus.original_config import read_config, write_config
from corl_jax.porting.rules import TensorRule, checkpoint_tensors, count_parameters, is_unused
from corl_jax.porting.writer import passthrough_entries, save_folder
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
def test_every_released_tensor_is_a_parameter_or_listed_as_unused(
    test_data, layout, size, cfg, count
):
    short = {"original": "orig", "transformers": "hf"}[layout]
    file = test_data("spec/keys") / f"janus_{short}_keys_{size}.txt"
    lines = file.read_text("utf-8").splitlines()
    released = {
        name: tuple(json.loads(shape))
        for name, shape in (line.split("\t") for line in lines if line)
    }

    tensors = janus_tensors(cfg, LAYOUTS[layout])
    unused = {name for name in released if is_unused(name, LAYOUTS[layout].unused)}
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        name: shape for name, shape in released.items() if name not in unused
    }
    assert sum(int(np.prod(shape)) for shape in released.values()) == count
    unused_count = sum(int(np.prod(released[name])) for name in unused)
    assert count_parameters(tensors) == count - unused_count
    assert len(unused) == (14 if layout == "original" else 0)


@pytest.fixture
def original(model_pair, torch, tokenizer_folder, tmp_path):
    """A folder of ``model_pair`` in the original layout without weights, and its tensors."""
    write_original(tmp_path / "original", model_pair.cfg, tokenizer_folder)
    return tmp_path / "original", to_original(torch, model_pair.torch_model.state_dict())


def test_original_layout_from_torch_pickles(model_pair, torch, original):
    folder, tensors = original
    assert load_config(folder) == model_pair.cfg
    torch.save(tensors, folder / "pytorch_model.bin")
    assert digest(load_params(folder, model_pair.cfg)) == digest(model_pair.params)
    assert JanusFolder(folder).reader.unused_names() == [
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
    assert digest(load_params(folder, model_pair.cfg)) == digest(model_pair.params)


def test_original_layout_from_safetensors_in_bfloat16(model_pair, torch, original):
    from safetensors.torch import save_file

    folder, tensors = original
    save_file(
        {name: tensor.bfloat16() for name, tensor in tensors.items()}, folder / "model.safetensors"
    )
    rounded = {
        path: np.asarray(leaf.astype("bfloat16").astype("float32"))
        for path, leaf in model_pair.params.items()
    }
    assert digest(load_params(folder, model_pair.cfg)) == digest(rounded)
    reader = JanusFolder(folder).reader
    assert {str(reader.param_dtype(path)) for path in rounded} == {"bfloat16"}


def test_transformers_names_without_their_prefix(model_pair, tmp_path):
    from safetensors.numpy import load_file, save_file

    (tmp_path / "config.json").write_bytes((model_pair.folder / "config.json").read_bytes())
    tensors = load_file(model_pair.folder / "model.safetensors")
    save_file(
        {name.removeprefix("model."): t for name, t in tensors.items()},
        tmp_path / "model.safetensors",
    )
    assert digest(load_params(tmp_path, model_pair.cfg)) == digest(model_pair.params)


def test_stacking_layers_on_the_device_gives_the_same_bits(model_pair, monkeypatch):
    monkeypatch.setattr("corl_jax.porting.reader.STACK_ON_HOST_BYTES", 1000)
    assert digest(load_params(model_pair.folder, model_pair.cfg)) == digest(model_pair.params)


@pytest.mark.parametrize("host_bytes", [2**28, 1000])
def test_parameters_are_loaded_in_their_sharding(model_pair, monkeypatch, host_bytes):
    monkeypatch.setattr("corl_jax.porting.reader.STACK_ON_HOST_BYTES", host_bytes)
    model = abstract(model_pair.cfg)
    axes, sharder = logical_axes(model), Sharder(make_mesh({"data": 2, "fsdp": 2, "tensor": 2}))
    structs = {
        path: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=sharder.checked_sharding(leaf.shape, axes[path], path)
        )
        for path, leaf in flatten_abstract(model).items()
    }
    params = JanusFolder(model_pair.folder).reader.load_params(structs)
    assert digest(params) == digest(model_pair.params)
    assert all(params[path].sharding == struct.sharding for path, struct in structs.items())

    # Four shards over fsdp and tensor, each on the two devices of data.
    path = "language_model/layers/gate_proj/kernel"
    shards = params[path].addressable_shards
    assert len(shards) == 8
    assert np.prod(shards[0].data.shape) * 4 == np.prod(structs[path].shape)


def test_export_to_the_original_layout_equals_the_import(model_pair, torch, original, tmp_path):
    folder, tensors = original
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "processor_config.json").write_text(
        '{"mask_prompt": true, "unknown_entry": 1}', "utf-8"
    )
    source, out = JanusFolder(folder), tmp_path / "exported"
    layout = LAYOUTS["original"]
    save_folder(
        model_pair.params,
        model_pair.cfg,
        folder,
        out,
        layout=layout,
        passthrough=passthrough_entries(source, layout),
        shard_bytes=10**6,
    )

    exported = JanusFolder(out)
    assert exported.reader.weights.headers.keys() == tensors.keys()
    assert exported.cfg == model_pair.cfg
    for name, tensor in tensors.items():
        array = exported.reader.weights.read(name)
        np.testing.assert_array_equal(array, tensor.numpy(), err_msg=name)

    # Shards have an index, entries that corl_jax does not know are kept, files are copied.
    index = json.loads((out / "model.safetensors.index.json").read_text("utf-8"))
    assert index["weight_map"].keys() == tensors.keys()
    assert len(set(index["weight_map"].values())) > 1
    assert json.loads((out / "processor_config.json").read_text("utf-8"))["unknown_entry"] == 1
    assert (out / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_original_layout_to_transformers(model_pair, torch, original, tmp_path):
    from transformers import JanusForConditionalGeneration

    folder, tensors = original
    torch.save(tensors, folder / "pytorch_model.bin")
    save_folder(
        load_params(folder, model_pair.cfg),
        model_pair.cfg,
        folder,
        tmp_path / "out",
        dtype="float32",
    )
    loaded, info = JanusForConditionalGeneration.from_pretrained(
        tmp_path / "out", output_loading_info=True, dtype=torch.float32
    )
    assert not any(info.values()), info
    for name, tensor in model_pair.torch_model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


@pytest.mark.parametrize("cfg", [JANUS_PRO_1B, JANUS_PRO_7B])
def test_released_sizes_are_written_as_names(cfg):
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
        # The released 7B file leaves out Llama's defaults.
        if cfg is JANUS_PRO_7B:
            del raw["language_config"][name]
    assert read_config(raw, "here") == cfg


def test_model_variants_that_are_not_supported():
    raw = write_config(JANUS_PRO_1B, "bfloat16")
    raw["vision_config"]["params"]["model_name"] = "siglip_so400m_patch14_384"
    with pytest.raises(
        UserError,
        match="params.model_name in .* must be one of siglip_large.*; got 'siglip_so400m_patch14_384'",
    ):
        read_config(raw, "here")
    raw = write_config(JANUS_PRO_1B, "bfloat16")
    raw["aligner_config"]["params"]["projector_type"] = "low_high_hybrid_split_mlp_gelu"
    with pytest.raises(
        UserError, match="aligner_config.params.projector_type in .* must be 'mlp_gelu'; got 'low_"
    ):
        read_config(raw, "here")
    for broken in (
        {"language_config": None},
        {"gen_head_config": {}},
        {"vision_config": {"params": []}},
    ):
        with pytest.raises(UserError, match="config.json of 'here'"):
            read_config(write_config(JANUS_PRO_1B, "bfloat16") | broken, "here")


def test_incomplete_tables_are_refused():
    with pytest.raises(ValueError, match="no rule of the table matches parameter 'b'"):
        checkpoint_tensors({"a": (2,), "b": (2,)}, [TensorRule("x", "a")])
    with pytest.raises(ValueError, match=r"has only the parts \[1\] of tensor 'x'"):
        checkpoint_tensors({"a": (2,)}, [TensorRule("x", "a", part=(1, 3))])
