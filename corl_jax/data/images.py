"""Pictures in and out of the model's range. In: files, PIL images, uint8 arrays; out: float32 in [-1, 1], and back."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image, UnidentifiedImageError

from corl_jax.core.errors import UserError

GREY = (127, 127, 127)
"""The padding of Janus-Pro: ``int(0.5 * 255)``."""
MIN_SIDE = 14
"""No side becomes shorter than this."""


def load_image(path: str | os.PathLike[str]) -> np.ndarray:
    """The picture in a file as uint8 RGB ``[H, W, 3]``.

    Raises:
      UserError: there is no such file, or it cannot be read as a picture.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise UserError(f"image {str(path)!r} does not exist; check the path") from None
    except UnidentifiedImageError:
        raise UserError(
            f"{str(path)!r} is not a picture that can be read; expected PNG, JPEG or the like"
        ) from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(
            f"image {str(path)!r} cannot be read ({error}); check or replace the file"
        ) from None


def resized(
    image: np.ndarray, size: tuple[int, int], how: Image.Resampling = Image.Resampling.BICUBIC
) -> np.ndarray:
    """A picture uint8 ``[h, w, 3]`` at ``(width, height)``, its shape not kept; one of that size keeps its pixels."""
    if (image.shape[1], image.shape[0]) == size:
        return image
    return np.asarray(Image.fromarray(image).resize(size, how))


def preprocess(image: np.ndarray | Image.Image, image_size: int) -> np.ndarray:
    """Makes a picture ready for the understanding encoder, as Janus-Pro does.

    The longer side becomes ``image_size`` (bicubic, the shorter side rounded down), the rest of the square is grey. A
    picture that is already ``image_size`` square keeps its pixels.

    Args:
      image: uint8 ``[H, W, 3]`` or a PIL image.
      image_size: side of the square, in pixels.

    Returns:
      float32 ``[image_size, image_size, 3]`` in [-1, 1].
    """
    picture = (Image.fromarray(image) if isinstance(image, np.ndarray) else image).convert("RGB")
    longest = max(picture.size)
    width, height = (max(int(side / longest * image_size), MIN_SIDE) for side in picture.size)
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    square = Image.new("RGB", (image_size, image_size), GREY)
    square.paste(picture, ((image_size - width) // 2, (image_size - height) // 2))
    return to_float(np.asarray(square))


def to_float(pixels: np.ndarray) -> np.ndarray:
    """uint8 in 0..255 to float32 in [-1, 1]."""
    return (pixels.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Float pixels, meant to be in [-1, 1], to uint8; what lies outside is clipped, fractions are dropped."""
    return np.clip((np.asarray(pixels, np.float32) + 1) / 2 * 255, 0, 255).astype(np.uint8)
