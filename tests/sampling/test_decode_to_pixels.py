"""Pixels of image tokens, some pictures at a time: the same pictures, in order, with less memory."""

import jax
import numpy as np
import pytest

from corl_jax.core.sharding import Sharder, make_mesh, sharding_context
from corl_jax.core.trees import bind
from corl_jax.sampling.generate import decode_to_pixels


@pytest.fixture(scope="module")
def show(tiny_policy):
    """``most -> (codes -> pixels)``, jitted."""
    sampler, params = tiny_policy.fns, tiny_policy.params

    def make(most):
        return jax.jit(lambda codes: decode_to_pixels(bind(sampler.graphdef, params), codes, most))

    return make


@pytest.fixture(scope="module")
def codes():
    return np.random.default_rng(0).integers(0, 256, (24, 36)).astype(np.int32)


def test_any_number_at_a_time_gives_the_same_pictures(show, codes):
    want = np.asarray(show(24)(codes))
    assert want.shape == (24, 48, 48, 3) and want.dtype == np.uint8 and want.std(0).any()
    for most in (0, 1, 5, 8, 1000):
        found = np.asarray(show(most)(codes), int)
        assert (
            np.abs(found - want).max() <= 1 and (found == want).mean() > 0.999
        )  # a sum in another order


def test_devices_take_turns_with_their_own_rows(show, codes):
    want = np.asarray(show(24)(codes), int)
    with sharding_context(Sharder(make_mesh({"data": 2, "fsdp": 4}))) as sharder:
        run = show(2)  # of a device's 3
        placed = sharder.put_batch(codes)
        assert np.abs(np.asarray(run(placed), int) - want).max() <= 1
        text = run.lower(placed).compile().as_text()
        assert not any(word in text for word in ("all-gather", "all-to-all", "collective-permute"))
        few = np.asarray(show(2)(codes[:5]), int)  # rows that do not divide over the devices
    assert np.abs(few - want[:5]).max() <= 1


def test_memory_is_that_of_the_pictures_of_a_turn(show, codes):
    temporary = {
        n: show(n).lower(codes).compile().memory_analysis().temp_size_in_bytes for n in (2, 8, 24)
    }
    assert 2.5 < temporary[8] / temporary[2] < 4.5 and 2.5 < temporary[24] / temporary[8] < 3.5
