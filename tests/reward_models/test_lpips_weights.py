"""LPIPS: equal to a plain torch computation at full size with the released linear weights; every name; refusals."""

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
from corl_jax.porting.rules import knowingly_unused, plan
from corl_jax.porting.torch_legacy_pickle import is_legacy, read_legacy
from corl_jax.reward_models.base import load_reward_model
from corl_jax.reward_models.lpips.model import Perceptual, PerceptualConfig
from corl_jax.reward_models.lpips.weights import LPIPS, rename

PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)


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
    """VGG16 of random weights under torchvision's names, of such sizes that signals keep theirs."""
    rng, tensors, inputs = np.random.default_rng(0), {}, 3
    for place, width in zip(PLACES, WIDTHS, strict=True):
        kernel = rng.standard_normal((width, inputs, 3, 3), np.float32) * np.float32(
            (2 / (9 * inputs)) ** 0.5
        )
        tensors[f"features.{place}.weight"] = kernel
        tensors[f"features.{place}.bias"] = rng.standard_normal(width, np.float32) * np.float32(0.1)
        inputs = width
    return tensors


@pytest.fixture(scope="module")
def folder(trunk, linear, tmp_path_factory):
    """A folder as timm publishes it, classifier and all, with the linear weights beside."""
    folder = tmp_path_factory.mktemp("vgg16")
    more = {
        name: np.zeros((2, 2), np.float32) for name in ("pre_logits.fc1.weight", "head.fc.weight")
    }
    save_file(trunk | more, folder / "model.safetensors")
    np.savez(folder / "vgg_lin.npz", **linear)
    return folder


@pytest.fixture(scope="module")
def wanted(folder, sharder):
    return digest(load_reward_model(LPIPS, str(folder), sharder).params)


def in_torch(torch, tensors, linear, one, other):
    """The distance of two pictures ``[N, H, W, 3]`` in [0, 1], written out from the formula alone."""
    functional = torch.nn.functional
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    states = [
        ((2 * torch.from_numpy(x) - 1 - shift) / scale).permute(0, 3, 1, 2) for x in (one, other)
    ]
    total, block = 0.0, 0
    for i in range(30):
        if i in (4, 9, 16, 23):
            states = [functional.max_pool2d(x, 2) for x in states]
        elif i in PLACES:
            weight, bias = (
                torch.from_numpy(tensors[f"features.{i}.{kind}"]) for kind in ("weight", "bias")
            )
            states = [functional.conv2d(x, weight, bias, padding=1) for x in states]
        else:
            states = [functional.relu(x) for x in states]
        if i in (3, 8, 15, 22, 29):
            a, b = (x / torch.sqrt(1e-8 + x.square().sum(1, keepdim=True)) for x in states)
            weight = torch.from_numpy(linear[f"lin{block}.model.1.weight"])
            total, block = (
                total + functional.conv2d((a - b).square(), weight).mean((1, 2, 3)),
                block + 1,
            )
    return total.numpy()


def test_the_distance_is_that_of_a_plain_torch_computation(
    folder, trunk, linear, torch, sharder, rng
):
    net = load_reward_model(LPIPS, str(folder), sharder)
    assert net.cfg == PerceptualConfig() and count(net.params) == 14_716_160
    one, other = rng.random((2, 1, 96, 64, 3), np.float32)
    other[:, :48] = one[:, :48] * 0.9
    with torch.no_grad():
        theirs = in_torch(torch, trunk, linear, one, other)
    ours = np.asarray(jax.jit(lambda m, a, b: m(a, b))(bind(net.graphdef, net.params), one, other))
    print(f"LPIPS {theirs[0]:.6f}, ours differs by {abs(ours - theirs).max():.1e}")
    assert theirs[0] > 0.01
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-5)


def test_every_name_of_the_lpips_package(test_data, folder):
    lines = (test_data("spec") / "keys" / "lpips_vgg_keys.txt").read_text().splitlines()
    released = {
        name: tuple(json.loads(shape)) for name, shape in (line.split("\t") for line in lines)
    }
    module = nnx.eval_shape(lambda: Perceptual(PerceptualConfig(), nnx.Rngs(0)))
    tensors = plan(
        {path: leaf.shape for path, leaf in flatten_abstract(module).items()}, LPIPS.rules
    )
    found = {rename(name, frozenset(released)): tensor.shape for name, tensor in tensors.items()}
    left = {name: shape for name, shape in released.items() if knowingly_unused(name, LPIPS.unused)}
    assert found | left == released and set(left) == {f"lins.{i}.model.1.weight" for i in range(5)}


def test_a_file_of_the_lpips_package_holds_all(trunk, linear, sharder, tmp_path, wanted):
    places = {str(place): 1 + sum(place >= first for first in (5, 10, 17, 24)) for place in PLACES}
    sliced = {
        f"net.slice{places[name.split('.')[1]]}.{name[len('features.') :]}": trunk[name]
        for name in trunk
    }
    more = {name.replace("lin", "lins.", 1): np.array(tensor) for name, tensor in linear.items()}
    save_file(sliced | linear | more, tmp_path / "model.safetensors")
    assert digest(load_reward_model(LPIPS, str(tmp_path), sharder).params) == wanted


def test_torchs_older_and_newer_files(trunk, linear, torch, sharder, tmp_path, wanted):
    """``vgg.pth`` of the lpips package and torchvision's own file are of the older format."""
    for name, tensors, newer in (
        ("vgg16-397923af.pth", trunk, False),
        ("vgg.pth", linear, False),
        ("vgg.pth", linear, 1),
    ):
        tensors = {key: torch.from_numpy(array) for key, array in tensors.items()}
        torch.save(tensors, tmp_path / name, _use_new_zipfile_serialization=bool(newer))
        assert is_legacy(tmp_path / name) is not bool(newer)
        if name == "vgg.pth":
            assert digest(load_reward_model(LPIPS, str(tmp_path), sharder).params) == wanted


def test_older_files_with_views_and_from_a_gpu(torch, tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    torch.save(
        {"whole": base, "part": base.T[1:]},
        tmp_path / "a.pth",
        _use_new_zipfile_serialization=False,
    )
    raw = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(
        raw.replace(b"ctorch\nFloatStorage", b"ctorch.cuda\nFloatStorage")
    )
    assert b"torch.cuda" in (tmp_path / "a.pth").read_bytes()
    found = read_legacy(tmp_path / "a.pth")
    np.testing.assert_array_equal(found["whole"], base)
    np.testing.assert_array_equal(found["part"], base.T[1:])


def cut(folder):
    (folder / "vgg_lin.npz").unlink()


def twice(folder):
    shutil.copy(folder / "vgg_lin.npz", folder / "more.npz")
    save_file(dict(np.load(folder / "vgg_lin.npz")), folder / "z.safetensors")


def damaged(folder):
    (folder / "vgg_lin.npz").write_bytes(b"no archive")


def other_net(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["features.30.weight"] = tensors.pop("features.28.weight")
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            cut,
            r"not LPIPS's linear weights \(lin0.*put vgg.pth of the lpips package .* into this folder",
        ),
        (
            twice,
            "tensor 'lin0.model.1.weight' is in .*z.safetensors' and in .*vgg_lin.npz'; keep the files of one",
        ),
        (damaged, "vgg_lin.npz' cannot be read .*expected arrays as np.savez writes them"),
        (other_net, "missing: features.28.weight; not used: features.30.weight"),
    ],
)
def test_folders_that_are_refused(folder, sharder, tmp_path, harm, message):
    copy = shutil.copytree(folder, tmp_path / "copy")
    harm(copy)
    with pytest.raises(UserError, match=message) as caught:
        load_reward_model(LPIPS, str(copy), sharder)
    assert "\n" not in str(caught.value)


def test_older_files_that_are_refused(torch, tmp_path):
    file = tmp_path / "vgg.pth"
    for value, told in (
        ({"a": print}, "it asks for"),
        ([torch.ones(2)], "it holds something else"),
    ):
        torch.save(value, file, _use_new_zipfile_serialization=False)
        with pytest.raises(
            UserError, match=f"refused .*{told}.*expected the tensors of a model by name"
        ):
            read_legacy(file)
    torch.save({"a": torch.ones(100)}, file, _use_new_zipfile_serialization=False)
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(UserError, match="it has 98 of 100 numbers of a storage"):
        read_legacy(file)
