"""LPIPS from pictures on: equal ones are at 0, rows keep their order, devices agree; the full trunk in a slow test."""

from __future__ import annotations

import time

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from corl_jax.core.sharding import Sharder, make_mesh
from corl_jax.core.trees import flatten
from corl_jax.reward_models.base import LoadedModel, load_reward_model
from corl_jax.reward_models.lpips.distance import SIDE, Lpips
from corl_jax.reward_models.lpips.model import PerceptualConfig
from corl_jax.reward_models.lpips.weights import LPIPS


@pytest.fixture(scope="module")
def sharder():
    return Sharder(make_mesh({"data": 1}, jax.devices()[:1]))


@pytest.fixture(scope="module")
def tiny(sharder):
    return Lpips(load_reward_model(LPIPS, "tiny", sharder), sharder)


@pytest.fixture(scope="module")
def rows():
    """More pairs than one call takes; real pictures of several sizes."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (11, 48, 48, 3), dtype=np.uint8)
    reals = [
        rng.integers(0, 256, (40 + 3 * i, 60, 3), dtype=np.uint8) // (1 + i % 4) for i in range(11)
    ]
    return pictures, reals


def test_rows_keep_their_order(tiny, rows):
    pictures, reals = rows
    values = tiny.distance(pictures, reals)
    assert (
        values.shape == (11,)
        and values.dtype == np.float32
        and values.min() > 0
        and values.std() > 1e-3
    )
    order = np.random.default_rng(1).permutation(11)
    np.testing.assert_allclose(
        tiny.distance(pictures[order], [reals[i] for i in order]), values[order], rtol=1e-5
    )
    np.testing.assert_allclose(tiny.distance(pictures[:1], reals[:1]), values[:1], rtol=1e-5)
    assert tiny.distance(pictures[:0], []).shape == (0,)
    assert tiny._run._cache_size() == 1  # one program, whatever the number of rows


def test_equal_pictures_are_at_no_distance_and_both_sides_count_alike(tiny, rows):
    pictures, reals = rows
    np.testing.assert_allclose(tiny.distance(pictures[:3], list(pictures[:3])), 0, atol=1e-12)
    back = (
        tiny.distance(np.stack([pictures[0]]), reals[:1]),
        tiny.distance(np.stack(reals[:1]), [pictures[0]]),
    )
    np.testing.assert_allclose(*back, rtol=1e-6)


def test_pictures_are_compared_at_one_size(tiny, rows):
    pictures, reals = rows
    small = [
        np.asarray(Image.fromarray(x).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        for x in (pictures[0], reals[0])
    ]
    assert small[0].shape == (224, 224, 3)
    expected = tiny.distance(small[0][None], [small[1]])
    np.testing.assert_array_equal(tiny.distance(pictures[:1], reals[:1]), expected)


def test_eight_devices_give_the_same(tiny, rows):
    sharder = Sharder(make_mesh({"data": 2, "fsdp": 2, "tensor": 2}))
    many = Lpips(load_reward_model(LPIPS, "tiny", sharder), sharder)
    np.testing.assert_allclose(many.distance(*rows), tiny.distance(*rows), rtol=1e-4)


def test_rows_must_match(tiny, rows):
    with pytest.raises(ValueError, match="11 pictures and 2 real ones; expected one for each"):
        tiny.distance(rows[0], rows[1][:2])


@pytest.mark.full_size
def test_time_of_the_full_trunk(sharder, capsys):
    graphdef, params = flatten(LPIPS.build(PerceptualConfig(), nnx.Rngs(0)))
    full = Lpips(LoadedModel(graphdef, params, PerceptualConfig(), None), sharder)
    pictures = np.random.default_rng(0).integers(0, 256, (16, SIDE, SIDE, 3), dtype=np.uint8)
    began = time.monotonic()
    full.distance(pictures[:1], [pictures[1]])
    compiled = time.monotonic()
    values = full.distance(pictures, list(pictures[::-1]))
    took = time.monotonic() - compiled
    assert np.isfinite(values).all() and (values > 0).all()
    with capsys.disabled():
        print(
            f"LPIPS-VGG at {SIDE} px: {took / 16:.2f} s for a pair, first call {compiled - began:.1f} s"
        )
