"""CLIP folders of both layouts: features of transformers, every released name, what is refused."""

from __future__ import annotations

import json
import math
import shutil

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from corl_jax.core.errors import UserError
from corl_jax.core.sharding import Sharder, make_mesh
from corl_jax.core.trees import bind, digest, flatten_abstract
from corl_jax.porting.rules import checkpoint_tensors, is_unused
from corl_jax.reward_models.base import load_reward_model
from corl_jax.reward_models.clip.config import read_open_clip_config, read_transformers_config
from corl_jax.reward_models.clip.model import Clip
from corl_jax.reward_models.clip.weights import CLIP, OPEN_CLIP, TRANSFORMERS, choose_clip_layout

TEXT = dict(
    hidden_size=32, intermediate_size=96, num_hidden_layers=3, num_attention_heads=2, vocab_size=520
)
IMAGE = dict(
    hidden_size=64,
    intermediate_size=80,
    num_hidden_layers=2,
    num_attention_heads=4,
    image_size=48,
    patch_size=16,
)
END = 500
VARIANTS = {"gelu, first end token": ("gelu", END), "quick gelu, largest id": ("quick_gelu", 2)}


@pytest.fixture(scope="module")
def sharder():
    return Sharder(make_mesh({"data": 1}, jax.devices()[:1]))


@pytest.fixture(scope="module", params=list(VARIANTS))
def reference(request, torch, tmp_path_factory):
    """A model of transformers, and the folder that it was saved to."""
    from transformers import CLIPConfig, CLIPModel

    activation, end = VARIANTS[request.param]
    config = CLIPConfig(
        text_config=TEXT | {"hidden_act": activation, "eos_token_id": end},
        vision_config=IMAGE | {"hidden_act": activation},
        projection_dim=24,
    )
    model = CLIPModel(config).eval()

    # Values of such sizes that every part of the network matters.
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, leaf in model.named_parameters():
            values = torch.randn(leaf.shape, generator=generator)
            near_one = leaf.ndim == 1 and name.endswith("weight")
            leaf.copy_(
                values * 0.2 + near_one if leaf.ndim < 2 else values * leaf[0].numel() ** -0.5
            )

    folder = tmp_path_factory.mktemp("clip")
    model.save_pretrained(folder)
    return model, folder


def inputs(rng):
    """Images, and ids with one or two end tokens, which are (or are not) the largest ids."""
    images = rng.normal(size=(3, 48, 48, 3)).astype(np.float32)
    ids = rng.integers(0, END, (3, 20)).astype(np.int32)
    ids[0, 7], ids[1, 19], ids[2, 4], ids[2, 9] = END, END, END, END
    ids[2, 12] = 510
    return images, ids


def test_features_are_those_of_transformers(reference, torch, sharder, rng, assert_close):
    torch_model, folder = reference
    images, ids = inputs(rng)
    with torch.no_grad():
        output = torch_model(
            input_ids=torch.from_numpy(ids.astype(np.int64)),
            pixel_values=torch.from_numpy(images).permute(0, 3, 1, 2),
        )
        # These two are projected already.
        image_features = output.vision_model_output.pooler_output
        text_features = output.text_model_output.pooler_output
        cosines = (output.image_embeds * output.text_embeds).sum(-1)

    model = load_reward_model(CLIP, str(folder), sharder)
    run = jax.jit(lambda m, x, i: (m.image(x), m.text(i), m.cosine(x, i)))
    values = run(bind(model.graphdef, model.params), images, ids)
    for value, expected in zip(values, (image_features, text_features, cosines), strict=True):
        assert_close(value, expected, 1e-5)


def test_the_two_pooling_rules_differ(reference, sharder, rng):
    """Otherwise the test above would show neither."""
    model = load_reward_model(CLIP, str(reference[1]), sharder)
    ids = inputs(rng)[1]
    first, largest = (ids == END).argmax(1), ids.argmax(1)
    assert first[2] != largest[2]
    assert model.cfg.end_id == (None if model.cfg.text.activation == "quick_gelu" else END)


def open_clip_tensors(tensors):
    """Tensors of transformers under the names of open_clip, written by hand without our tables."""
    renamed = {
        "logit_scale": tensors["logit_scale"],
        "visual.class_embedding": tensors["vision_model.embeddings.class_embedding"],
        "visual.conv1.weight": tensors["vision_model.embeddings.patch_embedding.weight"],
        "visual.positional_embedding": tensors["vision_model.embeddings.position_embedding.weight"],
        "visual.proj": tensors["visual_projection.weight"].T,
        "token_embedding.weight": tensors["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": tensors["text_model.embeddings.position_embedding.weight"],
        "text_projection": tensors["text_projection.weight"].T,
    }
    names = {
        "ln_final": "text_model.final_layer_norm",
        "visual.ln_pre": "vision_model.pre_layrnorm",
        "visual.ln_post": "vision_model.post_layernorm",
    }
    for open_clip_tower, tower in (
        ("visual.transformer", "vision_model"),
        ("transformer", "text_model"),
    ):
        for i in range(3 if tower == "text_model" else 2):
            layer, block = f"{tower}.encoder.layers.{i}", f"{open_clip_tower}.resblocks.{i}"
            parts = {
                "ln_1": "layer_norm1",
                "ln_2": "layer_norm2",
                "mlp.c_fc": "mlp.fc1",
                "mlp.c_proj": "mlp.fc2",
            }
            parts["attn.out_proj"] = "self_attn.out_proj"
            names |= {f"{block}.{name}": f"{layer}.{part}" for name, part in parts.items()}
            for kind in ("weight", "bias"):
                fused = [tensors[f"{layer}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
                renamed[f"{block}.attn.in_proj_{kind}"] = np.concatenate(fused)
    for open_clip_name, name in names.items():
        for kind in ("weight", "bias"):
            renamed[f"{open_clip_name}.{kind}"] = tensors[f"{name}.{kind}"]
    return {name: np.ascontiguousarray(tensor) for name, tensor in renamed.items()}


def open_clip_config(quick_gelu):
    return {
        "model_cfg": {
            "embed_dim": 24,
            "quick_gelu": quick_gelu,
            "vision_cfg": {
                "image_size": 48, "layers": 2, "width": 64, "head_width": 16, "patch_size": 16,
                "mlp_ratio": 1.25,
            },
            "text_cfg": {"vocab_size": 520, "width": 32, "heads": 2, "layers": 3, "mlp_ratio": 3.0},
        },
        "preprocess_cfg": {},
    }  # fmt: skip


@pytest.fixture
def open_clip_folder(reference, tmp_path):
    """A folder with the same weights as open_clip would have written them."""
    torch_model, folder = reference
    tensors = load_file(folder / "model.safetensors")
    save_file(open_clip_tensors(tensors), tmp_path / "open_clip_model.safetensors")
    config = open_clip_config(torch_model.config.text_config.hidden_act == "quick_gelu")
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    return tmp_path


def test_the_layout_of_open_clip_gives_the_same_parameters(reference, open_clip_folder, sharder):
    from_transformers = load_reward_model(CLIP, str(reference[1]), sharder)
    from_open_clip = load_reward_model(CLIP, str(open_clip_folder), sharder)
    assert digest(from_transformers.params) == digest(from_open_clip.params)
    assert from_open_clip.cfg.end_id is None
    assert from_open_clip.cfg.image == from_transformers.cfg.image
    assert from_open_clip.cfg.text == from_transformers.cfg.text


def test_weights_of_open_clip_are_read_from_its_torch_file(open_clip_folder, torch, sharder):
    expected = load_reward_model(CLIP, str(open_clip_folder), sharder).params
    file = open_clip_folder / "open_clip_model.safetensors"
    tensors = {name: torch.from_numpy(tensor) for name, tensor in load_file(file).items()}
    torch.save(tensors, open_clip_folder / "open_clip_pytorch_model.bin")
    file.unlink()
    params = load_reward_model(CLIP, str(open_clip_folder), sharder).params
    assert digest(params) == digest(expected)


def test_the_weights_of_a_folder_with_both_configs_decide(reference, open_clip_folder):
    shutil.copy(reference[1] / "config.json", open_clip_folder)
    assert choose_clip_layout(open_clip_folder) is OPEN_CLIP
    shutil.copy(reference[1] / "model.safetensors", open_clip_folder)
    assert choose_clip_layout(open_clip_folder) is TRANSFORMERS


FULL_OPEN_CLIP = {
    "model_cfg": {
        "embed_dim": 1024,
        "vision_cfg": {
            "image_size": 224,
            "layers": 32,
            "width": 1280,
            "head_width": 80,
            "patch_size": 14,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 1024,
            "heads": 16,
            "layers": 24,
        },
    }
}


def param_shapes(cfg):
    module = nnx.eval_shape(lambda: Clip(cfg, nnx.Rngs(0)))
    return {path: leaf.shape for path, leaf in flatten_abstract(module).items()}


def test_every_name_of_the_released_size(test_data):
    lines = (test_data("spec") / "keys" / "openclip_vith14_keys.txt").read_text().splitlines()
    released = {
        name: tuple(json.loads(shape)) for name, shape in (line.split("\t") for line in lines)
    }
    cfg = read_open_clip_config(FULL_OPEN_CLIP, "x")
    tensors = checkpoint_tensors(param_shapes(cfg), OPEN_CLIP.rules)
    unused = {
        name: shape for name, shape in released.items() if is_unused(name, OPEN_CLIP.unused_tensors)
    }
    assert {name: tensor.shape for name, tensor in tensors.items()} | unused == released
    assert unused == {"logit_scale": ()}
    assert sum(math.prod(shape) for shape in released.values()) == 986_109_441


def test_the_released_size_is_the_same_in_both_layouts():
    text = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
    }
    image = {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_attention_heads": 16,
        "num_hidden_layers": 32,
    }
    raw = {
        "model_type": "clip",
        "projection_dim": 1024,
        "text_config": text | {"hidden_act": "gelu", "eos_token_id": 2},
        "vision_config": {},
        "vision_config_dict": image | {"hidden_act": "gelu", "patch_size": 14},
    }
    assert read_transformers_config(raw, "x") == read_open_clip_config(FULL_OPEN_CLIP, "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda raw: raw.pop("model_cfg"),
            "model_cfg in open_clip_config.json of 'x' must be a JSON object; got nothing; take",
        ),
        (
            lambda raw: raw["model_cfg"]["vision_cfg"].pop("width"),
            "model_cfg.vision_cfg.width in .* must be a whole number .*; got nothing",
        ),
        (
            lambda raw: raw["model_cfg"]["text_cfg"].update(no_causal_mask=True),
            "no_causal_mask in .* must be absent, as in a plain vision transformer.*; got True",
        ),
        (
            lambda raw: raw["model_cfg"]["vision_cfg"].update(layers=[3, 4, 6, 3]),
            r"vision_cfg.layers in .* must be a whole number from 1 to 1000; got \[3, 4, 6, 3\]",
        ),
    ],
)
def test_configs_of_open_clip_that_are_refused(change, message):
    raw = json.loads(json.dumps(FULL_OPEN_CLIP))
    change(raw)
    with pytest.raises(UserError, match=message) as error:
        read_open_clip_config(raw, "x")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"model_type": "siglip"}, "model_type .* must be 'clip'; got 'siglip'"),
        (
            {"model_type": "clip", "text_config": {"hidden_act": "relu"}},
            "text_config.hidden_act in .* must be one of gelu, quick_gelu; got 'relu'",
        ),
        (
            {"model_type": "clip", "vision_config": {"hidden_size": 770}},
            "vision_config.hidden_size in .* must be a multiple of the 12 heads; got 770",
        ),
        (
            {"model_type": "clip", "vision_config": {"num_channels": 1}},
            "vision_config.num_channels in .* must be 3; got 1",
        ),
    ],
)
def test_configs_of_transformers_that_are_refused(raw, message):
    with pytest.raises(UserError, match=message):
        read_transformers_config(raw, "x")


def test_folders_that_are_refused(reference, open_clip_folder, sharder, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(
        UserError,
        match="must hold config.json or open_clip_config.json; got neither.*the folder of a CLIP",
    ):
        load_reward_model(CLIP, str(empty), sharder)
    shutil.copy(reference[1] / "config.json", empty)
    with pytest.raises(UserError, match=r"no model\*.safetensors and no pytorch_model\*.bin in"):
        load_reward_model(CLIP, str(empty), sharder)
    shutil.copy(open_clip_folder / "open_clip_model.safetensors", empty / "model.safetensors")
    with pytest.raises(UserError, match="missing: text_model.embeddings.position_embedding.weight"):
        load_reward_model(CLIP, str(empty), sharder)
    with pytest.raises(
        UserError,
        match=r"CLIP model must be .*; got 'nowhere', which is not a folder.*laion.*3.9 GB",
    ):
        load_reward_model(CLIP, "nowhere", sharder)
