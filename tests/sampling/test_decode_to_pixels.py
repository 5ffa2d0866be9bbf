"""Pixels of image tokens, some images at a time: the same images in less memory."""

import jax
import numpy as np
import pytest

from corl_jax.core.sharding import Sharder, make_mesh, sharding_context
from corl_jax.core.trees import bind
from corl_jax.sampling.generate import decode_to_pixels


@pytest.fixture(scope="module")
def make_decoder(tiny_policy):
    """A function from images at a time to the jitted function from image tokens to pixels."""
    fns, params = tiny_policy.fns, tiny_policy.params

    def make(images_at_once):
        return jax.jit(
            lambda tokens: decode_to_pixels(bind(fns.graphdef, params), tokens, images_at_once)
        )

    return make


@pytest.fixture(scope="module")
def tokens():
    """Of 24 images."""
    return np.random.default_rng(0).integers(0, 256, (24, 36)).astype(np.int32)


@pytest.fixture(scope="module")
def expected(make_decoder, tokens):
    """Their pixels, decoded all at once."""
    return np.asarray(make_decoder(24)(tokens))


def test_any_number_at_a_time_gives_the_same_images(make_decoder, tokens, expected):
    """Up to one level of a few pixels, since sums are added in another order."""
    assert expected.shape == (24, 48, 48, 3) and expected.dtype == np.uint8
    assert expected.std(0).any()
    for images_at_once in (0, 1, 5, 8, 1000):
        pixels = np.asarray(make_decoder(images_at_once)(tokens), int)
        assert np.abs(pixels - expected).max() <= 1 and (pixels == expected).mean() > 0.999


def test_devices_decode_their_own_rows(make_decoder, tokens, expected):
    """Each has 3 images and decodes at most 2 at a time."""
    decode = make_decoder(2)
    with sharding_context(Sharder(make_mesh({"data": 2, "fsdp": 4}))) as sharder:
        sharded_tokens = sharder.put_batch(tokens)
        pixels = np.asarray(decode(sharded_tokens), int)
        text = decode.lower(sharded_tokens).compile().as_text()
        # Rows that do not divide over the devices.
        few_pixels = np.asarray(make_decoder(2)(tokens[:5]), int)
    assert np.abs(pixels - expected).max() <= 1
    assert not any(word in text for word in ("all-gather", "all-to-all", "collective-permute"))
    assert np.abs(few_pixels - expected[:5]).max() <= 1


def test_memory_is_that_of_the_images_decoded_at_once(make_decoder, tokens):
    temporary = {}
    for images_at_once in (2, 8, 24):
        compiled = make_decoder(images_at_once).lower(tokens).compile()
        temporary[images_at_once] = compiled.memory_analysis().temp_size_in_bytes
    assert 2.5 < temporary[8] / temporary[2] < 4.5
    assert 2.5 < temporary[24] / temporary[8] < 3.5
