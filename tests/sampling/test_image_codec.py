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
def base():
    return ImageCodec.load("tiny")


@pytest.fixture(scope="module")
def pictures():
    return np.stack([example("test", i).image for i in range(11)])


def test_pictures_survive_the_way_there_and_back(base, pictures):
    codes = base.encode(list(pictures))
    assert codes.shape == (11, 36) and codes.dtype == np.int32 and codes.max() < 256
    again = base.decode(codes)
    assert again.shape == pictures.shape and again.dtype == np.uint8
    assert (
        np.abs(again.astype(float) - pictures).mean() < 12
    )  # of 255; a constant picture is off by far more
    assert np.abs(again[::-1].astype(float) - pictures).mean() > 15
    np.testing.assert_array_equal(
        base.encode([pictures[10]]), codes[10:]
    )  # whatever else is in the batch


def test_it_decodes_what_the_policy_drew(base):
    policy = Policy.load("tiny", dtype="float32")
    asked = ["a red circle", "two blue squares"]
    np.testing.assert_array_equal(
        base.decode(policy.sample_image_tokens(asked, 1)[:, 0]), policy.generate(asked, 1)[:, 0]
    )


def test_other_sizes_and_kinds_of_pictures(base, pictures, tmp_path):
    Image.fromarray(pictures[0]).save(tmp_path / "a.png")
    same = base.encode([tmp_path / "a.png", Image.fromarray(pictures[0]), pictures[0]])
    assert (same == same[0]).all()
    assert base.encode([np.zeros((500, 333, 3), np.uint8)]).shape == (1, 36)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (
            np.zeros((1, 35), int),
            r"codes are int64 \[1, 35\]; expected whole numbers \[pictures, 36\]",
        ),
        (np.zeros((1, 36)), "codes are float64"),
        (np.full((1, 36), 256), "codes run from 256 to 256; expected 0 to 255"),
        (np.full((1, 36), -1), "codes run from -1 to -1"),
        (np.zeros((0, 36), int), r"codes are int64 \[0, 36\]"),
    ],
)
def test_codes_that_are_none(base, codes, message):
    with pytest.raises(UserError, match=message):
        base.decode(codes)


def test_nothing_to_encode(base):
    with pytest.raises(UserError, match="no picture to encode"):
        base.encode([])
    with pytest.raises(UserError, match="an image is float64"):
        base.encode([np.zeros((4, 4, 3))])


def test_parser_reads_most_of_what_comes_back(base, pictures):
    again = base.decode(base.encode(list(pictures)))
    pairs = zip(parse_batch(again), parse_batch(pictures), strict=True)
    right = [found.scene is not None and found.scene == wanted.scene for found, wanted in pairs]
    assert np.mean(right) > 0.7
