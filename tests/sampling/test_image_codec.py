"""The image tokenizer used alone."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from corl_jax import ImageCodec, Policy
from corl_jax.core.errors import UserError
from corl_jax.data.shapes.examples import example
from corl_jax.data.shapes.parser import parse_batch


@pytest.fixture(scope="module")
def codec():
    """Of the shipped base."""
    return ImageCodec.load("tiny")


@pytest.fixture(scope="module")
def images():
    return np.stack([example("test", i).image for i in range(11)])


@pytest.fixture(scope="module")
def tokens(codec, images):
    return codec.encode(list(images))


@pytest.fixture(scope="module")
def decoded(codec, tokens):
    return codec.decode(tokens)


def test_decoded_images_are_close(codec, images, tokens, decoded):
    assert tokens.shape == (11, 36) and tokens.dtype == np.int32 and tokens.max() < 256
    assert decoded.shape == images.shape and decoded.dtype == np.uint8

    # Of 255 levels; images in another order are further apart.
    assert np.abs(decoded.astype(float) - images).mean() < 12
    assert np.abs(decoded[::-1].astype(float) - images).mean() > 15

    # The tokens of an image do not depend on the batch.
    np.testing.assert_array_equal(codec.encode([images[10]]), tokens[10:])


def test_it_decodes_what_the_policy_samples(codec):
    policy = Policy.load("tiny", dtype="float32")
    prompts = ["a red circle", "two blue squares"]
    image_tokens = policy.sample_image_tokens(prompts, 1)[:, 0]
    np.testing.assert_array_equal(codec.decode(image_tokens), policy.generate(prompts, 1)[:, 0])


def test_other_sizes_and_kinds_of_images(codec, images, tmp_path):
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    tokens = codec.encode([tmp_path / "a.png", Image.fromarray(images[0]), images[0]])
    assert (tokens == tokens[0]).all()
    assert codec.encode([np.zeros((500, 333, 3), np.uint8)]).shape == (1, 36)


@pytest.mark.parametrize(
    ("bad_tokens", "message"),
    [
        (
            np.zeros((1, 35), int),
            r"must be whole numbers \[images, 36\]; got int64 \[1, 35\]",
        ),
        (np.zeros((1, 36)), r"must be whole numbers .*; got float64 \[1, 36\]"),
        (np.full((1, 36), 256), "image tokens must be from 0 to 255; got 256 to 256"),
        (np.full((1, 36), -1), "image tokens must be from 0 to 255; got -1 to -1"),
        (np.zeros((0, 36), int), r"must be whole numbers .*; got int64 \[0, 36\]"),
    ],
)
def test_bad_image_tokens(codec, bad_tokens, message):
    with pytest.raises(UserError, match=message):
        codec.decode(bad_tokens)


def test_bad_images(codec):
    with pytest.raises(UserError, match="at least one image to encode; got none"):
        codec.encode([])
    with pytest.raises(UserError, match=r"an image must be uint8 .*; got float64 \[4, 4, 3\]"):
        codec.encode([np.zeros((4, 4, 3))])


def test_the_parser_reads_most_decoded_images(images, decoded):
    pairs = zip(parse_batch(decoded), parse_batch(images), strict=True)
    is_right = [
        parsed.scene is not None and parsed.scene == expected.scene for parsed, expected in pairs
    ]
    assert np.mean(is_right) > 0.7
