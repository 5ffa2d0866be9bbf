"""Images into the size and the range that the model reads, and back.

PIL images and uint8 arrays become float32 arrays in [-1, 1]; float arrays become uint8. Images to
read are padded to a square, images to draw are cropped to one, as in Janus-Pro.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageOps

from corl_jax.data.image_files import ImageInput, load_image

GREY = (127, 127, 127)
"""Padding colour of Janus-Pro: ``int(0.5 * 255)``."""
MIN_SIDE = 14
"""The shorter side of a preprocessed image has at least this many pixels."""


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
    """``pad_to_square`` as float32 ``[image_size, image_size, 3]`` in [-1, 1]."""
    return to_float(pad_to_square(image, image_size))


def preprocess_target(
    image: np.ndarray | Image.Image, image_size: int
) -> Float32[np.ndarray, "S S 3"]:
    """``crop_to_square`` as float32 ``[image_size, image_size, 3]`` in [-1, 1]."""
    return to_float(crop_to_square(image, image_size))


def pad_to_square(image: ImageInput, image_size: int) -> UInt8[np.ndarray, "S S 3"]:
    """Prepares an image for the vision tower, as Janus-Pro does (``image_processing_vlm.py``).

    The longer side becomes ``image_size`` (bicubic, the shorter side rounded down) and the rest of
    the square is grey. The pixels of a square image of side ``image_size`` do not change.

    Args:
      image: anything that ``load_image`` reads.
      image_size: side of the square, in pixels.

    Returns:
      uint8 ``[image_size, image_size, 3]``.
    """
    pil_image = Image.fromarray(load_image(image))

    # Both sides are scaled by the same factor and rounded down, as in the original.
    longer_side = max(pil_image.size)
    width, height = (max(int(side / longer_side * image_size), MIN_SIDE) for side in pil_image.size)
    if pil_image.size != (width, height):
        pil_image = pil_image.resize((width, height), Image.Resampling.BICUBIC)

    # The image is centred on the grey square.
    square = Image.new("RGB", (image_size, image_size), GREY)
    square.paste(pil_image, ((image_size - width) // 2, (image_size - height) // 2))
    return np.asarray(square)


def crop_to_square(image: ImageInput, image_size: int) -> UInt8[np.ndarray, "S S 3"]:
    """Prepares an image that is to be drawn, as Janus does for generation (Janus, section 4.1).

    The shorter side becomes ``image_size`` (bicubic) and the middle of the longer side is kept, so
    that no grey border is learned. A square image is prepared as by ``pad_to_square``.

    Args:
      image: anything that ``load_image`` reads.
      image_size: side of the square, in pixels.

    Returns:
      uint8 ``[image_size, image_size, 3]``.
    """
    pil_image = Image.fromarray(load_image(image))
    square = ImageOps.fit(pil_image, (image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(square)


def to_float(pixels: np.ndarray) -> np.ndarray:
    """Converts uint8 in 0..255 to float32 in [-1, 1]."""
    # Rescale to [0, 1], then normalize with mean and standard deviation 0.5.
    return (pixels.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Converts floats in [-1, 1] to uint8: clips values outside the range, truncates fractions."""
    # Truncates instead of rounding, as Janus does (``generation_inference.py``).
    return np.clip((np.asarray(pixels, np.float32) + 1) / 2 * 255, 0, 255).astype(np.uint8)
