"""LPIPS from a folder: equal to plain torch at full size, every released name, bad files."""

from __future__ import annotations

import json
import shutil

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from corl_jax.core.errors import UserError
from corl_jax.core.sharding import Sharder, make_mesh
from corl_jax.core.trees import bind, count, digest, flatten_abstract
from corl_jax.porting.rules import checkpoint_tensors, is_unused
from corl_jax.porting.torch_legacy_pickle import is_legacy, read_legacy
from corl_jax.reward_models.base import load_reward_model
from corl_jax.reward_models.lpips.model import LpipsConfig, LpipsModel
from corl_jax.reward_models.lpips.weights import LPIPS, lpips_tensor_name

CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
CHANNELS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)


@pytest.fixture(scope="module")
def sharder():
    return Sharder(make_mesh({"data": 1}, jax.devices()[:1]))


@pytest.fixture(scope="module")
def linear(test_data):
    """The released linear weights by name."""
    with np.load(test_data("data/lpips") / "vgg_lin.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def trunk():
    """VGG16 with random weights under torchvision's names; activations keep their size."""
    rng, tensors, inputs = np.random.default_rng(0), {}, 3
    for index, outputs in zip(CONVOLUTIONS, CHANNELS, strict=True):
        scale = np.float32((2 / (9 * inputs)) ** 0.5)
        kernel = rng.standard_normal((outputs, inputs, 3, 3), np.float32) * scale
        bias = rng.standard_normal(outputs, np.float32) * np.float32(0.1)
        tensors[f"features.{index}.weight"] = kernel
        tensors[f"features.{index}.bias"] = bias
        inputs = outputs
    return tensors


@pytest.fixture(scope="module")
def folder(trunk, linear, tmp_path_factory):
    """A folder as timm publishes it, with a classifier, and with a file of the linear weights."""
    folder = tmp_path_factory.mktemp("vgg16")
    classifier = {
        name: np.zeros((2, 2), np.float32) for name in ("pre_logits.fc1.weight", "head.fc.weight")
    }
    save_file(trunk | classifier, folder / "model.safetensors")
    np.savez(folder / "vgg_lin.npz", **linear)
    return folder


@pytest.fixture(scope="module")
def expected_digest(folder, sharder):
    """Digest of the parameters from that folder."""
    return digest(load_reward_model(LPIPS, str(folder), sharder).params)


def torch_distance(torch, tensors, linear, images, other_images):
    """The distance of images ``[N, H, W, 3]`` in [0, 1], written from the formula alone."""
    functional = torch.nn.functional
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    states = [
        ((2 * torch.from_numpy(x) - 1 - shift) / scale).permute(0, 3, 1, 2)
        for x in (images, other_images)
    ]
    total, block = 0.0, 0
    for i in range(30):
        if i in (4, 9, 16, 23):
            states = [functional.max_pool2d(x, 2) for x in states]
        elif i in CONVOLUTIONS:
            weight, bias = (
                torch.from_numpy(tensors[f"features.{i}.{kind}"]) for kind in ("weight", "bias")
            )
            states = [functional.conv2d(x, weight, bias, padding=1) for x in states]
        else:
            states = [functional.relu(x) for x in states]
        if i in (3, 8, 15, 22, 29):
            left, right = (x / torch.sqrt(1e-8 + x.square().sum(1, keepdim=True)) for x in states)
            weight = torch.from_numpy(linear[f"lin{block}.model.1.weight"])
            total = total + functional.conv2d((left - right).square(), weight).mean((1, 2, 3))
            block += 1
    return total.numpy()


def test_the_distance_is_that_of_a_plain_torch_computation(
    folder, trunk, linear, torch, sharder, rng
):
    model = load_reward_model(LPIPS, str(folder), sharder)
    assert model.cfg == LpipsConfig() and count(model.params) == 14_716_160
    images, other_images = rng.random((2, 1, 96, 64, 3), np.float32)
    other_images[:, :48] = images[:, :48] * 0.9
    with torch.no_grad():
        expected = torch_distance(torch, trunk, linear, images, other_images)

    module = bind(model.graphdef, model.params)
    distance = np.asarray(jax.jit(lambda m, a, b: m(a, b))(module, images, other_images))
    print(f"LPIPS {expected[0]:.6f}, corl_jax differs by {abs(distance - expected).max():.1e}")
    assert expected[0] > 0.01
    np.testing.assert_allclose(distance, expected, atol=1e-5, rtol=1e-5)


def test_every_name_of_the_lpips_package(test_data, folder):
    lines = (test_data("spec") / "keys" / "lpips_vgg_keys.txt").read_text().splitlines()
    released = {
        name: tuple(json.loads(shape)) for name, shape in (line.split("\t") for line in lines)
    }
    module = nnx.eval_shape(lambda: LpipsModel(LpipsConfig(), nnx.Rngs(0)))
    tensors = checkpoint_tensors(
        {path: leaf.shape for path, leaf in flatten_abstract(module).items()}, LPIPS.rules
    )
    used = {
        lpips_tensor_name(name, frozenset(released)): tensor.shape
        for name, tensor in tensors.items()
    }
    unused = {
        name: shape for name, shape in released.items() if is_unused(name, LPIPS.unused_tensors)
    }
    assert used | unused == released
    assert set(unused) == {f"lins.{i}.model.1.weight" for i in range(5)}


def test_one_file_of_the_lpips_package_is_enough(trunk, linear, sharder, tmp_path, expected_digest):
    slices = {
        str(index): 1 + sum(index >= first for first in (5, 10, 17, 24)) for index in CONVOLUTIONS
    }
    sliced = {
        f"net.slice{slices[name.split('.')[1]]}.{name[len('features.') :]}": trunk[name]
        for name in trunk
    }
    second_names = {
        name.replace("lin", "lins.", 1): np.array(tensor) for name, tensor in linear.items()
    }
    save_file(sliced | linear | second_names, tmp_path / "model.safetensors")
    assert digest(load_reward_model(LPIPS, str(tmp_path), sharder).params) == expected_digest


def test_older_and_newer_files_of_torch(trunk, linear, torch, sharder, tmp_path, expected_digest):
    """``vgg.pth`` of the lpips package and torchvision's own file are of the older format."""
    for name, tensors, is_new in (
        ("vgg16-397923af.pth", trunk, False),
        ("vgg.pth", linear, False),
        ("vgg.pth", linear, True),
    ):
        tensors = {key: torch.from_numpy(array) for key, array in tensors.items()}
        torch.save(tensors, tmp_path / name, _use_new_zipfile_serialization=is_new)
        assert is_legacy(tmp_path / name) is not is_new
        if name == "vgg.pth":
            params = load_reward_model(LPIPS, str(tmp_path), sharder).params
            assert digest(params) == expected_digest


def test_older_files_with_views_and_from_a_gpu(torch, tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    torch.save(
        {"base": base, "view": base.T[1:]},
        tmp_path / "a.pth",
        _use_new_zipfile_serialization=False,
    )
    raw = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(
        raw.replace(b"ctorch\nFloatStorage", b"ctorch.cuda\nFloatStorage")
    )
    assert b"torch.cuda" in (tmp_path / "a.pth").read_bytes()
    tensors = read_legacy(tmp_path / "a.pth")
    np.testing.assert_array_equal(tensors["base"], base)
    np.testing.assert_array_equal(tensors["view"], base.T[1:])


def remove_linear_weights(folder):
    (folder / "vgg_lin.npz").unlink()


def store_linear_weights_twice(folder):
    shutil.copy(folder / "vgg_lin.npz", folder / "more.npz")
    save_file(dict(np.load(folder / "vgg_lin.npz")), folder / "z.safetensors")


def damage_linear_weights(folder):
    (folder / "vgg_lin.npz").write_bytes(b"no archive")


def rename_a_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["features.30.weight"] = tensors.pop("features.28.weight")
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            remove_linear_weights,
            r"must hold LPIPS's linear weights \(lin0.*; got the VGG16 trunk alone. "
            "Put vgg.pth of the lpips package .* into this folder",
        ),
        (
            store_linear_weights_twice,
            "tensor 'lin0.model.1.weight' is in .*z.safetensors' and in .*vgg_lin.npz'; "
            "keep the files of one",
        ),
        (
            damage_linear_weights,
            "vgg_lin.npz' cannot be read .*expected arrays as np.savez writes them",
        ),
        (rename_a_tensor, "missing: features.28.weight; not used: features.30.weight"),
    ],
)
def test_folders_that_are_refused(folder, sharder, tmp_path, change, message):
    copy = shutil.copytree(folder, tmp_path / "copy")
    change(copy)
    with pytest.raises(UserError, match=message) as caught:
        load_reward_model(LPIPS, str(copy), sharder)
    assert "\n" not in str(caught.value)


def test_older_files_that_are_refused(torch, tmp_path):
    file = tmp_path / "vgg.pth"
    for value, reason in (
        ({"a": print}, "it imports"),
        ([torch.ones(2)], "it holds something else"),
    ):
        torch.save(value, file, _use_new_zipfile_serialization=False)
        with pytest.raises(
            UserError, match=f"refused .*{reason}.*expected the tensors of a model by name"
        ):
            read_legacy(file)
    torch.save({"a": torch.ones(100)}, file, _use_new_zipfile_serialization=False)
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(UserError, match="it has 98 of 100 numbers of a storage"):
        read_legacy(file)
