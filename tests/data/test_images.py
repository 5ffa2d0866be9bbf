"""Images into the range that the model reads, and back."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from corl_jax.core.errors import UserError
from corl_jax.data.image_files import load_image
from corl_jax.data.images import preprocess, preprocess_target, to_float, to_uint8


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


@pytest.mark.parametrize("size", [(96, 48), (48, 96), (49, 400), (400, 49), (500, 333), (3, 2)])
def test_targets_are_cropped_to_the_middle(size):
    width, height = size
    side, length = min(size), max(size)

    # The ends of the longer side are red, the middle square is a blue ramp.
    ramp = np.linspace(0, 255, side, dtype=np.uint8)
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = 255
    start = (length - side) // 2
    middle = (slice(None), slice(start, start + side))
    if height > width:
        middle = middle[::-1]
    image[middle] = 0
    image[..., 2][middle] = ramp if width > height else ramp[:, None]

    pixels = preprocess_target(image, 48)
    assert pixels.shape == (48, 48, 3) and pixels.dtype == np.float32
    inner = pixels[4:-4, 4:-4]
    if size == (3, 2):
        # Half a pixel of an end is kept on either side.
        assert inner[..., 2].max() > 0.5
        return
    assert inner[..., 0].max() < -0.99
    means = inner[..., 2].mean(0 if width > height else 1)
    assert (np.diff(means) > 0).all() and means[0] < -0.7 and means[-1] > 0.7


def test_targets_are_scaled_as_a_whole_and_then_cropped():
    image = np.random.default_rng(0).integers(0, 256, (240, 360, 3), dtype=np.uint8)
    resized = Image.fromarray(image).resize((720, 480), Image.Resampling.BICUBIC)
    expected = to_float(np.asarray(resized.crop((120, 0, 600, 480))))
    np.testing.assert_allclose(preprocess_target(image, 480), expected, atol=2.1 / 255)


def test_square_targets_are_as_images_to_read():
    image = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    assert np.array_equal(preprocess_target(image, 48), to_float(image))
    assert np.array_equal(preprocess_target(image, 32), preprocess(image, 32))


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
