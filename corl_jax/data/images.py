"""Images into the range that the model reads, and back.

Files, PIL images and uint8 arrays become float32 arrays in [-1, 1]; float arrays become uint8.
"""

from __future__ import annotations

import os

import numpy as np
from PIL import Image, UnidentifiedImageError

from corl_jax.core.errors import UserError

GREY = (127, 127, 127)
"""Padding colour of Janus-Pro: ``int(0.5 * 255)``."""
MIN_SIDE = 14
"""The shorter side of a preprocessed image has at least this many pixels."""


def load_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads an image file as uint8 RGB ``[H, W, 3]``.

    Raises:
      UserError: the file does not exist, or it cannot be read as an image.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise UserError(f"image {str(path)!r} does not exist; check the path") from None
    except UnidentifiedImageError:
        raise UserError(
            f"{str(path)!r} is not a picture in a known format; use a PNG or JPEG file"
        ) from None
    # Damaged files raise different errors, depending on the format and on where the damage is.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(
            f"image {str(path)!r} cannot be read ({error}); check or replace the file"
        ) from None


def resize_image(
    image: np.ndarray,
    size: tuple[int, int],
    resampling: Image.Resampling = Image.Resampling.BICUBIC,
) -> np.ndarray:
    """Resizes an image without keeping its aspect ratio.

    Args:
      image: uint8 ``[h, w, 3]``.
      size: ``(width, height)`` in pixels. An image of this size is returned as it is.
      resampling: filter of Pillow.

    Returns:
      uint8 ``[height, width, 3]``.
    """
    # NumPy counts rows first, Pillow columns.
    if (image.shape[1], image.shape[0]) == size:
        return image
    return np.asarray(Image.fromarray(image).resize(size, resampling))


def preprocess(image: np.ndarray | Image.Image, image_size: int) -> np.ndarray:
    """Prepares an image for the vision tower, as Janus-Pro does (``image_processing_vlm.py``).

    The longer side becomes ``image_size`` (bicubic, the shorter side rounded down) and the rest of
    the square is grey. The pixels of a square image of side ``image_size`` do not change.

    Args:
      image: uint8 ``[H, W, 3]`` or a PIL image.
      image_size: side of the square, in pixels.

    Returns:
      float32 ``[image_size, image_size, 3]`` in [-1, 1].
    """
    # PIL images may be grey or transparent.
    pil_image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    pil_image = pil_image.convert("RGB")

    # Both sides are scaled by the same factor and rounded down, as in the original.
    longer_side = max(pil_image.size)
    width, height = (max(int(side / longer_side * image_size), MIN_SIDE) for side in pil_image.size)
    if pil_image.size != (width, height):
        pil_image = pil_image.resize((width, height), Image.Resampling.BICUBIC)

    # The image is centred on the grey square.
    square = Image.new("RGB", (image_size, image_size), GREY)
    square.paste(pil_image, ((image_size - width) // 2, (image_size - height) // 2))
    return to_float(np.asarray(square))


def to_float(pixels: np.ndarray) -> np.ndarray:
    """Converts uint8 in 0..255 to float32 in [-1, 1]."""
    # Rescale to [0, 1], then normalize with mean and standard deviation 0.5.
    return (pixels.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Converts floats in [-1, 1] to uint8: clips values outside the range, truncates fractions."""
    # Truncates instead of rounding, as Janus does (``generation_inference.py``).
    return np.clip((np.asarray(pixels, np.float32) + 1) / 2 * 255, 0, 255).astype(np.uint8)
