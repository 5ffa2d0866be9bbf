"""Written folders are read bit for bit, also by transformers; damaged ones are refused."""

import dataclasses
import json
import resource
import shutil
import signal

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from corl_jax.core.errors import UserError
from corl_jax.core.trees import bind, digest
from corl_jax.models.janus.config import TINY
from corl_jax.models.janus.model import abstract
from corl_jax.porting.janus.folder import JanusFolder, load_config, load_params
from corl_jax.porting.janus.hf_config import write_config
from corl_jax.porting.janus.original_config import RELEASED_TOKEN_IDS, image_token_id
from corl_jax.porting.writer import save_folder


@pytest.fixture(scope="module")
def params(random_params):
    return random_params(abstract(TINY))


@pytest.fixture(scope="module")
def saved(params, tokenizer_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("saved") / "model"
    save_folder(params, TINY, tokenizer_folder, out)
    return out


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def test_round_trip_is_exact(saved, params):
    assert load_config(saved) == TINY
    loaded = load_params(saved, TINY)
    assert loaded.keys() == params.keys() and digest(loaded) == digest(params)


def test_weights_in_bfloat16_and_in_shards_are_read(copy, params):
    tensors = load_file(copy / "model.safetensors")
    names = sorted(tensors)
    (copy / "model.safetensors").unlink()

    # Every other tensor, so that the layers of one parameter are in both files.
    for i, part in enumerate((names[::2], names[1::2])):
        save_file(
            {n: np.asarray(jnp.asarray(tensors[n], jnp.bfloat16)) for n in part},
            copy / f"model-{i}.safetensors",
        )

    loaded = load_params(copy, TINY)
    rounded = {
        path: np.asarray(jnp.asarray(leaf, jnp.bfloat16), np.float32)
        for path, leaf in params.items()
    }
    assert digest(loaded) == digest(rounded)


def test_transformers_loads_the_folder_and_computes_the_same_logits(
    saved, params, torch, rng, assert_close, tokenizer
):
    from transformers import JanusForConditionalGeneration

    torch_model, info = JanusForConditionalGeneration.from_pretrained(
        saved, output_loading_info=True, dtype=torch.float32
    )
    assert not any(info.values()), info
    embedding = torch_model.model.language_model.embed_tokens.weight
    assert not torch.equal(torch_model.lm_head.weight, embedding)
    assert torch_model.config.image_token_id == tokenizer.image_id
    assert torch_model.generation_config.generation_kwargs == {"boi_token_id": tokenizer.boi_id}

    tokens = rng.integers(8, TINY.decoder.vocab_size, (2, 11))
    with torch.no_grad():
        expected = torch_model.eval()(input_ids=torch.from_numpy(tokens)).logits
    model = bind(nnx.split(abstract(TINY))[0], params)
    states, _ = model.language_model(
        model.embed_text(tokens),
        jnp.broadcast_to(jnp.arange(11), (2, 11)),
        jnp.tril(jnp.ones((1, 11, 11), bool)),
    )
    assert_close(model.text_logits(states), expected)


def test_transformers_reads_tokenizer_and_processor(saved, tokenizer):
    from transformers import AutoTokenizer

    auto_tokenizer = AutoTokenizer.from_pretrained(saved)
    assert auto_tokenizer.pad_token_id == tokenizer.pad_id
    assert auto_tokenizer.bos_token_id == tokenizer.bos_id
    assert auto_tokenizer.eos_token_id == tokenizer.eos_id

    raw = json.loads((saved / "preprocessor_config.json").read_text("utf-8"))
    side = TINY.vision.image_size
    assert raw["image_mean"] == [0.5] * 3 and raw["size"] == {"height": side, "width": side}


def test_nothing_is_overwritten_and_no_unfinished_folder_stays(
    saved, params, tokenizer_folder, tmp_path
):
    before = sorted(p.name for p in saved.parent.iterdir())
    with pytest.raises(UserError, match="exists and is not empty; choose another folder"):
        save_folder(params, TINY, tokenizer_folder, saved)
    incomplete = dict(params)
    incomplete.pop("gen_embed/embedding")
    with pytest.raises(KeyError):
        save_folder(incomplete, TINY, tokenizer_folder, tmp_path / "out")
    assert not list(tmp_path.iterdir()) and sorted(p.name for p in saved.parent.iterdir()) == before


def is_one_line(error):
    return "\n" not in str(error.value)


def change_config(folder, change):
    """Rewrites ``config.json`` after ``change`` edited its content in place."""
    path = folder / "config.json"
    raw = json.loads(path.read_text("utf-8"))
    change(raw)
    path.write_text(json.dumps(raw), "utf-8")


def test_damaged_configs(copy, tmp_path):
    with pytest.raises(UserError, match="there is no config.json in .*nowhere"):
        load_config(tmp_path / "nowhere")
    change_config(copy, lambda raw: raw["text_config"].update(hidden_size=None))
    with pytest.raises(UserError, match="text_config.hidden_size in .* must be .*; got None"):
        load_config(copy)
    change_config(copy, lambda raw: raw.update(model_type="llava"))
    with pytest.raises(
        UserError, match="must be of type 'janus' .*; got 'llava'; choose a Janus folder"
    ):
        load_config(copy)

    for text in (
        '{"model_type": "janus",',
        "[1, 2]",
        '{"model_type": "janus", "text_config": []}',
        '{"model_type": "multi_modality", "vision_config": null}',
    ):
        (copy / "config.json").write_text(text, "utf-8")
        with pytest.raises(UserError) as error:
            load_config(copy)
        assert is_one_line(error) and "config.json" in str(error.value)


def test_config_of_an_unsupported_variant(copy):
    change_config(copy, lambda raw: raw["vision_config"].update(num_image_tokens=7))
    with pytest.raises(UserError, match="vision_config.num_image_tokens in .* must be 36; got 7"):
        load_config(copy)


@pytest.mark.parametrize("mlp_dim", [488, 920, 1840])
def test_mlp_width_is_exact_although_written_as_a_ratio(tmp_path, mlp_dim):
    cfg = dataclasses.replace(
        TINY, vision=dataclasses.replace(TINY.vision, width=56, mlp_dim=mlp_dim)
    )
    raw = write_config(cfg, "float32", image_token_id=5, bos_id=0, eos_id=1, pad_id=2)
    (tmp_path / "config.json").write_text(json.dumps(raw), "utf-8")
    assert load_config(tmp_path) == cfg


def test_damaged_weights(copy):
    file = copy / "model.safetensors"
    content = file.read_bytes()
    for damaged in (content[: len(content) // 2], content[:4], b""):
        file.write_bytes(damaged)
        with pytest.raises(
            UserError, match="model.safetensors' cannot be read .*; get the file again"
        ) as error:
            load_params(copy, TINY)
        assert is_one_line(error)
    file.unlink()
    with pytest.raises(UserError, match=r"no \*.safetensors and no pytorch_model"):
        load_params(copy, TINY)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("number", [np.nan, -np.inf])
def test_nan_and_infinity_are_refused(copy, dtype, number):
    tensors = {
        name: np.asarray(jnp.asarray(tensor, dtype))
        for name, tensor in load_file(copy / "model.safetensors").items()
    }
    name = "model.language_model.layers.2.mlp.up_proj.weight"
    tensors[name] = tensors[name].copy()
    tensors[name][3, 4] = number
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(UserError, match=f"tensor '{name}' in .* holds NaN or infinity"):
        load_params(copy, TINY)


def test_a_tensor_in_two_files(copy):
    shutil.copy(copy / "model.safetensors", copy / "model-again.safetensors")
    with pytest.raises(
        UserError, match="is in .*again.safetensors' and in .*; keep the files of one model"
    ):
        load_params(copy, TINY)


def test_tokenizer_of_another_size(copy):
    change_config(copy, lambda raw: raw.update(image_token_id=raw["image_token_id"] + 13))
    with pytest.raises(
        UserError,
        match="has id 5 for the image placeholder, but its model has 18; take the tokenizer",
    ):
        JanusFolder(copy).load_tokenizer()


@pytest.mark.parametrize(("width", "ids"), [(2048, (100015, 100594)), (4096, (100002, 100581))])
def test_tokenizer_of_the_other_released_size_in_the_original_layout(width, ids):
    raw = {"language_config": {"hidden_size": width}}
    pad_id, image_id = RELEASED_TOKEN_IDS[width]
    assert image_token_id(raw, *ids) == image_id != ids[1]
    assert image_token_id(raw, pad_id, image_id) == image_id
    assert image_token_id(raw, 2, 5) == 5


def test_model_with_another_image_normalization(copy):
    (copy / "preprocessor_config.json").write_text('{"image_mean": [0.48, 0.45, 0.4]}', "utf-8")
    with pytest.raises(
        UserError,
        match=r"image_mean in .* must be \[0.5, 0.5, 0.5\]; got \[0.48, 0.45, 0.4\]",
    ):
        JanusFolder(copy)


def test_too_little_space_on_the_disk(params, tokenizer_folder, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**6))
    with pytest.raises(
        UserError, match=r"weights take 0.0 GB and .* has 0.0 GB free; free some .* choose another"
    ):
        save_folder(params, TINY, tokenizer_folder, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_policy_that_is_not_finite_is_not_written(params, tokenizer_folder, tmp_path, number):
    path = "language_model/embed/embedding"
    broken = params | {path: np.array(params[path])}
    broken[path][1, 2] = number
    with pytest.raises(UserError, match="embed_tokens.weight' must be finite .* earlier check"):
        save_folder(broken, TINY, tokenizer_folder, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_disk_that_fills_while_writing(params, tokenizer_folder, tmp_path, monkeypatch):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, limits[1]))
    try:
        with pytest.raises(
            UserError, match=r"out' could not be written \(.*\); the unfinished folder was deleted"
        ):
            save_folder(params, TINY, tokenizer_folder, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_all_missing_unknown_and_misshapen_tensors_are_listed(copy):
    tensors = load_file(copy / "model.safetensors")
    del tensors["lm_head.weight"], tensors["model.aligner.fc1.bias"]
    tensors["model.unknown"] = np.zeros(1, np.float32)
    tensors["model.generation_embeddings.weight"] = np.zeros((3, 2), np.float32)
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(UserError) as error:
        load_params(copy, TINY)
    message = str(error.value)
    assert "missing: lm_head.weight, model.aligner.fc1.bias" in message and is_one_line(error)
    assert (
        "not used: model.unknown" in message
        and "model.generation_embeddings.weight (3, 2) instead of" in message
    )


def test_missing_layers_are_listed_as_ranges(copy):
    tensors = load_file(copy / "model.safetensors")
    for layer in (0, 1, 3):
        del tensors[f"model.language_model.layers.{layer}.mlp.up_proj.weight"]
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(
        UserError, match=r"missing: model.language_model.layers.\[0-1,3\].mlp.up_proj.weight\)"
    ):
        load_params(copy, TINY)
