"""Images into the range that the model reads, and back."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from corl_jax.core.errors import UserError
from corl_jax.data.images import load_image, preprocess, to_float, to_uint8


def content_slices(pixels: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns that are not grey padding."""
    grey = np.float32(127) / 255 * 2 - 1
    is_content = np.abs(pixels - grey).max(-1) > 1e-3
    rows = np.flatnonzero(is_content.any(1))
    cols = np.flatnonzero(is_content.any(0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(cols[0]), int(cols[-1]) + 1)


def test_sizes_are_rounded_down_and_centred():
    wide = preprocess(np.zeros((333, 500, 3), np.uint8), 384)
    tall = preprocess(np.zeros((500, 333, 3), np.uint8), 384)
    assert wide.shape == tall.shape == (384, 384, 3) and wide.dtype == np.float32
    assert content_slices(wide) == (slice(64, 64 + 255), slice(0, 384))
    assert content_slices(tall) == (slice(0, 384), slice(64, 64 + 255))
    assert wide[0, 0, 0] == pytest.approx(127 / 255 * 2 - 1)

    # The shorter side has at least 14 pixels.
    thin = preprocess(np.zeros((2, 1000, 3), np.uint8), 384)
    assert content_slices(thin)[0] == slice(185, 185 + 14)


def test_images_of_the_right_size_keep_their_pixels():
    image = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    assert np.array_equal(preprocess(image, 48), to_float(image))
    assert np.array_equal(preprocess(Image.fromarray(image), 48), preprocess(image, 48))


def test_to_uint8_truncates_and_clips():
    pixels = to_uint8(np.array([-1.5, -1.0, 0.0, 0.999, 1.0, 3.0]))
    assert pixels.tolist() == [0, 0, 127, 254, 255, 255]


def test_load_image(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    assert np.array_equal(load_image(tmp_path / "a.png"), image)

    # Grey images become RGB.
    Image.fromarray(image[..., 0]).save(tmp_path / "grey.png")
    assert load_image(tmp_path / "grey.png").shape == (5, 7, 3)

    # A text, half of an image, and a folder.
    (tmp_path / "b.png").write_text("not a picture")
    png_bytes = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(png_bytes[: len(png_bytes) // 2])
    for name, message in [
        ("none.png", "does not exist"),
        ("b.png", "not a picture"),
        ("cut.png", "cannot be read"),
    ]:
        with pytest.raises(UserError, match=message):
            load_image(tmp_path / name)
    with pytest.raises(UserError, match="cannot be read"):
        load_image(tmp_path)
