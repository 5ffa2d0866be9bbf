"""Photographs, preprocessed as the original processor does (``image_processing_vlm.py``)."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from corl_jax.data.images import preprocess

IMAGE_SIZE = 384


def preprocess_as_original(image: Image.Image) -> np.ndarray:
    """The steps of the original: resize, pad with the mean colour, rescale, normalize.

    Returns:
      float32 ``[H, W, 3]``.
    """
    width, height = image.size
    longer_side = max(width, height)
    size = [
        max(int(height / longer_side * IMAGE_SIZE), 14),
        max(int(width / longer_side * IMAGE_SIZE), 14),
    ]
    resized = np.asarray(
        image.resize((size[1], size[0]), Image.Resampling.BICUBIC, reducing_gap=None)
    )

    square = np.full((IMAGE_SIZE, IMAGE_SIZE, 3), int(255 * 0.5), np.uint8)
    if size[1] > size[0]:
        square[(IMAGE_SIZE - size[0]) // 2 :][: size[0]] = resized
    else:
        square[:, (IMAGE_SIZE - size[1]) // 2 :][:, : size[1]] = resized

    rescaled = (square.astype(np.float64) * (1 / 255)).astype(np.float32)
    return (rescaled - np.float32(0.5)) / np.float32(0.5)


@pytest.fixture(scope="module")
def photos(test_data):
    """Every photograph of the test data, by file name."""
    files = sorted((test_data("data/photos") / "images").iterdir())
    assert len(files) == 12
    return {file.name: Image.open(file).convert("RGB") for file in files}


def test_photographs_are_preprocessed_as_in_the_original(photos):
    for name, image in photos.items():
        pixels = preprocess(image, IMAGE_SIZE)
        np.testing.assert_allclose(pixels, preprocess_as_original(image), atol=1e-6, err_msg=name)
        assert pixels.shape == (IMAGE_SIZE, IMAGE_SIZE, 3) and pixels.std() > 0.01


@pytest.mark.parametrize(
    "size", [(500, 333), (333, 500), (1, 1000), (1000, 1), (384, 384), (37, 36)]
)
def test_unusual_sizes_are_preprocessed_as_in_the_original(photos, size):
    image = photos["astronaut.jpg"].resize(size)
    np.testing.assert_allclose(
        preprocess(image, IMAGE_SIZE), preprocess_as_original(image), atol=1e-6
    )


def test_transformers_preprocesses_alike_where_its_rounding_agrees(photos, test_data):
    pytest.importorskip(
        "torch",
        reason="transformers' processor needs torch: pip install -e '.[test]' (Python 3.11)",
    )
    from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil

    processor = JanusImageProcessorPil(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    compared = 0
    for name, image in photos.items():
        # transformers rounds the shorter side, the original rounds it down.
        shorter_side = min(image.size) / max(image.size) * IMAGE_SIZE
        if round(shorter_side) == int(shorter_side):
            batch = processor(image, return_tensors="np")["pixel_values"]
            expected = batch[0].transpose(1, 2, 0)
            pixels = preprocess(image, IMAGE_SIZE)
            np.testing.assert_allclose(pixels, expected, atol=1e-5, err_msg=name)
            compared += 1
    assert compared >= 3
