"""Pictures in and out of the model's range."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from corl_jax.core.errors import UserError
from corl_jax.data.images import load_image, preprocess, to_float, to_uint8


def content(pixels: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of what is not grey padding."""
    grey = np.float32(127) / 255 * 2 - 1
    filled = np.abs(pixels - grey).max(-1) > 1e-3
    rows, cols = np.flatnonzero(filled.any(1)), np.flatnonzero(filled.any(0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(cols[0]), int(cols[-1]) + 1)


def test_sizes_are_rounded_down_and_centred():
    wide = preprocess(np.zeros((333, 500, 3), np.uint8), 384)
    tall = preprocess(np.zeros((500, 333, 3), np.uint8), 384)
    assert wide.shape == tall.shape == (384, 384, 3) and wide.dtype == np.float32
    assert content(wide) == (slice(64, 64 + 255), slice(0, 384))
    assert content(tall) == (slice(0, 384), slice(64, 64 + 255))
    assert wide[0, 0, 0] == pytest.approx(127 / 255 * 2 - 1)
    thin = preprocess(np.zeros((2, 1000, 3), np.uint8), 384)
    assert content(thin)[0] == slice(185, 185 + 14)


def test_pictures_of_the_right_size_keep_their_pixels():
    image = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    assert np.array_equal(preprocess(image, 48), to_float(image))
    assert np.array_equal(preprocess(Image.fromarray(image), 48), preprocess(image, 48))


def test_to_uint8_truncates_and_clips():
    assert to_uint8(np.array([-1.5, -1.0, 0.0, 0.999, 1.0, 3.0])).tolist() == [
        0,
        0,
        127,
        254,
        255,
        255,
    ]


def test_load_image(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    assert np.array_equal(load_image(tmp_path / "a.png"), image)
    Image.fromarray(image[..., 0]).save(tmp_path / "grey.png")
    assert load_image(tmp_path / "grey.png").shape == (5, 7, 3)
    (tmp_path / "b.png").write_text("not a picture")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    for name, message in [
        ("none.png", "does not exist"),
        ("b.png", "not a picture"),
        ("cut.png", "cannot be read"),
    ]:
        with pytest.raises(UserError, match=message):
            load_image(tmp_path / name)
    with pytest.raises(UserError, match="cannot be read"):
        load_image(tmp_path)
