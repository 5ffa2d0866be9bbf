"""LPIPS of images: equal images are at 0, rows keep their order, devices agree; time in full."""

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
from corl_jax.reward_models.lpips.distance import IMAGE_SIZE, LpipsDistance
from corl_jax.reward_models.lpips.model import LpipsConfig
from corl_jax.reward_models.lpips.weights import LPIPS


@pytest.fixture(scope="module")
def sharder():
    return Sharder(make_mesh({"data": 1}, jax.devices()[:1]))


@pytest.fixture(scope="module")
def tiny(sharder):
    return LpipsDistance(load_reward_model(LPIPS, "tiny", sharder), sharder)


@pytest.fixture(scope="module")
def rows():
    """Images, and real images of several sizes, more than one call has rows."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (11, 48, 48, 3), dtype=np.uint8)
    real_images = [
        rng.integers(0, 256, (40 + 3 * i, 60, 3), dtype=np.uint8) // (1 + i % 4) for i in range(11)
    ]
    return images, real_images


def test_rows_keep_their_order(tiny, rows):
    images, real_images = rows
    distances = tiny.distance(images, real_images)
    assert distances.shape == (11,) and distances.dtype == np.float32
    assert distances.min() > 0 and distances.std() > 1e-3

    order = np.random.default_rng(1).permutation(11)
    permuted = tiny.distance(images[order], [real_images[i] for i in order])
    np.testing.assert_allclose(permuted, distances[order], rtol=1e-5)
    first = tiny.distance(images[:1], real_images[:1])
    np.testing.assert_allclose(first, distances[:1], rtol=1e-5)
    assert tiny.distance(images[:0], []).shape == (0,)
    assert tiny._program._cache_size() == 1  # one program, whatever the number of rows


def test_equal_images_are_at_distance_zero_and_the_distance_is_symmetric(tiny, rows):
    images, real_images = rows
    np.testing.assert_allclose(tiny.distance(images[:3], list(images[:3])), 0, atol=1e-12)
    both_ways = (
        tiny.distance(np.stack([images[0]]), real_images[:1]),
        tiny.distance(np.stack(real_images[:1]), [images[0]]),
    )
    np.testing.assert_allclose(*both_ways, rtol=1e-6)


def test_images_are_compared_at_one_size(tiny, rows):
    images, real_images = rows
    small_pair = [
        np.asarray(
            Image.fromarray(image).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
        )
        for image in (images[0], real_images[0])
    ]
    assert small_pair[0].shape == (224, 224, 3)
    expected = tiny.distance(small_pair[0][None], [small_pair[1]])
    np.testing.assert_array_equal(tiny.distance(images[:1], real_images[:1]), expected)


def test_eight_devices_give_the_same(tiny, rows):
    sharder = Sharder(make_mesh({"data": 2, "fsdp": 2, "tensor": 2}))
    sharded = LpipsDistance(load_reward_model(LPIPS, "tiny", sharder), sharder)
    np.testing.assert_allclose(sharded.distance(*rows), tiny.distance(*rows), rtol=1e-4)


def test_rows_must_match(tiny, rows):
    with pytest.raises(
        ValueError, match="one real image for each image; got 11 images and 2 real images"
    ):
        tiny.distance(rows[0], rows[1][:2])


@pytest.mark.full_size
def test_time_of_the_full_trunk(sharder, capsys):
    graphdef, params = flatten(LPIPS.build_module(LpipsConfig(), nnx.Rngs(0)))
    full = LpipsDistance(LoadedModel(graphdef, params, LpipsConfig(), None), sharder)
    shape = (16, IMAGE_SIZE, IMAGE_SIZE, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    start = time.monotonic()
    full.distance(images[:1], [images[1]])
    compiled = time.monotonic()
    distances = full.distance(images, list(images[::-1]))
    seconds = time.monotonic() - compiled
    assert np.isfinite(distances).all() and (distances > 0).all()
    with capsys.disabled():
        print(
            f"LPIPS-VGG at {IMAGE_SIZE} px: {seconds / 16:.2f} s for a pair, "
            f"first call {compiled - start:.1f} s"
        )
