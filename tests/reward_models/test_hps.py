"""HPS v2: cosines of open_clip's network, written out, and folders of all layouts."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx

from corl_jax.core.errors import UserError
from corl_jax.core.sharding import Sharder, make_mesh
from corl_jax.core.trees import bind, flatten_abstract
from corl_jax.core.types import Completion
from corl_jax.data.shapes.examples import example
from corl_jax.porting.rules import checkpoint_tensors
from corl_jax.reward_models.base import load_reward_model
from corl_jax.reward_models.clip import hps
from corl_jax.reward_models.clip.model import Clip, ClipConfig, TowerConfig
from corl_jax.reward_models.collection import RewardModels
from corl_jax.rewards.base import RewardContext, compute_rewards
from corl_jax.rewards.config import RewardOptions

SMALL = ClipConfig(
    image=TowerConfig(32, 2, 4, 48),
    text=TowerConfig(16, 3, 2, 24),
    image_size=32,
    patch_size=16,
    vocab_size=50,
    context=9,
    features=12,
)


@pytest.fixture(scope="module")
def sharder():
    return Sharder(make_mesh({"data": 1}, jax.devices()[:1]))


def tensor_shapes(cfg):
    module = nnx.eval_shape(lambda: Clip(cfg, nnx.Rngs(0)))
    shapes = {path: leaf.shape for path, leaf in flatten_abstract(module).items()}
    return {name: t.shape for name, t in checkpoint_tensors(shapes, hps.RELEASED.rules).items()}


@pytest.fixture(scope="module")
def tensors(torch):
    """Random weights of ``SMALL`` under open_clip's names."""
    generator = torch.Generator().manual_seed(0)
    values = {}
    for name, shape in tensor_shapes(SMALL).items():
        leaf = torch.randn(shape, generator=generator)
        near_one = "ln_" in name and name.endswith("weight")
        values[name] = leaf * 0.2 + near_one if len(shape) < 2 else leaf * shape[-1] ** -0.5
    return values


def tower(torch, x, tensors, prefix, heads, mask):
    """Blocks of open_clip over ``[N, L, D]``, from primitives."""
    f = torch.nn.functional
    layers = {name.split(".resblocks.")[1].split(".")[0] for name in tensors if prefix in name}
    for i in sorted(layers):
        t = {
            name.split(f"{prefix}.resblocks.{i}.")[1]: leaf
            for name, leaf in tensors.items()
            if name.startswith(f"{prefix}.resblocks.{i}.")
        }
        h = f.layer_norm(x, x.shape[-1:], t["ln_1.weight"], t["ln_1.bias"])
        q, k, v = f.linear(h, t["attn.in_proj_weight"], t["attn.in_proj_bias"]).chunk(3, -1)
        q, k, v = (y.unflatten(-1, (heads, -1)).transpose(1, 2) for y in (q, k, v))
        scores = q @ k.mT / q.shape[-1] ** 0.5 + mask
        h = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + f.linear(h, t["attn.out_proj.weight"], t["attn.out_proj.bias"])
        h = f.layer_norm(x, x.shape[-1:], t["ln_2.weight"], t["ln_2.bias"])
        h = f.gelu(f.linear(h, t["mlp.c_fc.weight"], t["mlp.c_fc.bias"]))
        x = x + f.linear(h, t["mlp.c_proj.weight"], t["mlp.c_proj.bias"])
    return x


def score(torch, tensors, images, ids):
    """The score of HPS: features of image and text, normalized, and their product."""
    f = torch.nn.functional
    x = f.conv2d(images.permute(0, 3, 1, 2), tensors["visual.conv1.weight"], stride=16)
    x = x.flatten(2).mT
    x = torch.cat([tensors["visual.class_embedding"].expand(len(x), 1, -1), x], 1)
    x = x + tensors["visual.positional_embedding"]
    x = f.layer_norm(
        x, x.shape[-1:], tensors["visual.ln_pre.weight"], tensors["visual.ln_pre.bias"]
    )
    visual = {name: leaf for name, leaf in tensors.items() if name.startswith("visual.transformer")}
    x = tower(torch, x, visual, "visual.transformer", 4, 0.0)[:, 0]
    x = f.layer_norm(
        x, x.shape[-1:], tensors["visual.ln_post.weight"], tensors["visual.ln_post.bias"]
    )
    image = f.normalize(x @ tensors["visual.proj"], dim=-1)

    y = tensors["token_embedding.weight"][ids] + tensors["positional_embedding"]
    causal = torch.full((ids.shape[1], ids.shape[1]), -torch.inf).triu(1)
    words = {name: leaf for name, leaf in tensors.items() if name.startswith("transformer")}
    y = tower(torch, y, words, "transformer", 2, causal)
    y = f.layer_norm(y, y.shape[-1:], tensors["ln_final.weight"], tensors["ln_final.bias"])
    y = y[torch.arange(len(ids)), ids.argmax(-1)] @ tensors["text_projection"]
    return (image * f.normalize(y, dim=-1)).sum(-1)


def write_released(torch, tensors, folder, name="HPS_v2.1_compressed.pt"):
    extra = {"logit_scale": torch.tensor(4.6)}
    torch.save({"state_dict": {**tensors, **extra}, "epoch": 3, "name": "hps"}, folder / name)


def test_the_score_is_that_of_open_clip(
    torch, tensors, sharder, rng, tmp_path, monkeypatch, assert_close
):
    write_released(torch, tensors, tmp_path)
    monkeypatch.setattr(
        hps, "RELEASED", dataclasses.replace(hps.RELEASED, read_config=lambda raw, folder: SMALL)
    )
    images = rng.normal(size=(4, 32, 32, 3)).astype(np.float32)
    ids = rng.integers(0, 40, (4, 9)).astype(np.int32)
    ids[np.arange(4), [2, 8, 5, 3]] = 49
    with torch.no_grad():
        expected = score(torch, tensors, torch.from_numpy(images), torch.from_numpy(ids).long())

    model = load_reward_model(hps.HPS, str(tmp_path), sharder)
    cosines = bind(model.graphdef, model.params).cosine(images, ids)
    assert_close(cosines, expected, 1e-5)


def test_the_released_file_has_the_tensors_of_its_size(test_data):
    lines = (test_data("spec") / "keys" / "openclip_vith14_keys.txt").read_text().splitlines()
    released = {
        name: tuple(json.loads(shape)) for name, shape in (line.split("\t") for line in lines)
    }
    assert tensor_shapes(hps.RELEASED.read_config({}, "x")) | {"logit_scale": ()} == released


def test_folders_that_are_refused(torch, tensors, sharder, tmp_path):
    def load():
        return load_reward_model(hps.HPS, str(tmp_path), sharder)

    with pytest.raises(UserError, match=r"must hold HPS_v2\*.pt, or config.json or open_clip_con"):
        load()
    write_released(torch, tensors, tmp_path)
    # Small weights are not those of ViT-H/14.
    with pytest.raises(UserError, match=r"resblocks"):
        load()
    write_released(torch, tensors, tmp_path, "HPS_v2_compressed.pt")
    with pytest.raises(UserError, match="one version of HPS; got HPS_v2.1_compressed.pt, HPS_v2_c"):
        load()


def test_the_reward_is_the_cosine(sharder):
    record = example("train", 0)
    models = RewardModels({"hps": "tiny"}, sharder)
    completions = [Completion(example("train", i), pixels=record.image) for i in range(2)]
    values = {}
    for normalization in ("unit", "none"):
        context = RewardContext(None, models, RewardOptions(normalization=normalization))
        values[normalization] = compute_rewards(completions, {"hps": 1.0}, context).total
    np.testing.assert_allclose(values["unit"], (values["none"] + 1) / 2, rtol=1e-6)
    assert values["none"][0] != values["none"][1] and (np.abs(values["none"]) < 1).all()
