"""Real photographs, prepared as the original processor does it (``image_processing_vlm.py``), step by step."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from corl_jax.data.images import preprocess

SIDE = 384


def original(image: Image.Image) -> np.ndarray:
    """The original's steps in its own order: resize, pad with the mean colour, rescale, normalise; ``[H, W, 3]``."""
    width, height = image.size
    longest = max(width, height)
    size = [max(int(height / longest * SIDE), 14), max(int(width / longest * SIDE), 14)]
    small = np.asarray(
        image.resize((size[1], size[0]), Image.Resampling.BICUBIC, reducing_gap=None)
    )
    square = np.full((SIDE, SIDE, 3), int(255 * 0.5), np.uint8)
    if size[1] > size[0]:
        square[(SIDE - size[0]) // 2 :][: size[0]] = small
    else:
        square[:, (SIDE - size[1]) // 2 :][:, : size[1]] = small
    rescaled = (square.astype(np.float64) * (1 / 255)).astype(np.float32)
    return (rescaled - np.float32(0.5)) / np.float32(0.5)


@pytest.fixture(scope="module")
def photos(test_data):
    """Every picture of the test data, by name."""
    files = sorted((test_data("data/photos") / "images").iterdir())
    assert len(files) == 12
    return {file.name: Image.open(file).convert("RGB") for file in files}


def test_photographs_as_the_original_prepares_them(photos):
    for name, image in photos.items():
        ours = preprocess(image, SIDE)
        np.testing.assert_allclose(ours, original(image), atol=1e-6, err_msg=name)
        assert ours.shape == (SIDE, SIDE, 3) and ours.std() > 0.01


@pytest.mark.parametrize(
    "size", [(500, 333), (333, 500), (1, 1000), (1000, 1), (384, 384), (37, 36)]
)
def test_odd_sizes_as_the_original_prepares_them(photos, size):
    image = photos["astronaut.jpg"].resize(size)
    np.testing.assert_allclose(preprocess(image, SIDE), original(image), atol=1e-6)


def test_transformers_prepares_the_same_where_its_rounding_agrees(photos, test_data):
    pytest.importorskip(
        "torch",
        reason="transformers' processor needs torch: pip install -e '.[test]' (Python 3.11)",
    )
    from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil

    theirs = JanusImageProcessorPil(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    same = 0
    for name, image in photos.items():
        shorter = min(image.size) / max(image.size) * SIDE
        if round(shorter) == int(shorter):
            expected = theirs(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
            np.testing.assert_allclose(preprocess(image, SIDE), expected, atol=1e-5, err_msg=name)
            same += 1
    assert same >= 3
