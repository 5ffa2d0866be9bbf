"""Reads pictures from outside: files, bytes and PIL images of every mode become uint8 RGB.

A picture is turned upright as its EXIF says, what is transparent in it is laid on white, and
numbers of more than 8 bits are scaled to 8. The first frame of an animation counts.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import threading
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from corl_jax.core.errors import UserError, describe_error

ImageInput = np.ndarray | Image.Image | str | os.PathLike[str] | bytes
"""A uint8 array ``[H, W, 3]``, a PIL image, the path of a file, or the content of a file."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""Formats that are read, by Pillow's names. Others depend on how Pillow was built."""
MAX_PIXELS = 89_478_485
"""Largest picture: the size from which Pillow warns of decompression bombs."""

WIDE_GREY_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
"""Modes of Pillow with one number of more than 8 bits per pixel."""
PNG_GREY_STEPS = {"L;2": 85, "L;4": 17}
"""Raw mode of a PNG -> what Pillow multiplies its grey levels by, but not its transparent one."""


def load_image(source: ImageInput, location: str = "") -> UInt8[np.ndarray, "H W 3"]:
    """Reads a picture.

    Args:
      source: a file of one of ``FORMATS``, its content, or a picture in memory.
      location: of the row that names the picture, for error texts.

    Raises:
      UserError: there is no such file, it is damaged or of another format, it has more than
        ``MAX_PIXELS``, or the range of its numbers is not known.
    """
    name = f"image {os.fspath(source)!r}" if isinstance(source, str | os.PathLike) else "an image"
    name = f"{location}: {name}" if location else name

    try:
        if not isinstance(source, str | os.PathLike | bytes | Image.Image):
            return _check_pixels(np.asarray(source), name)
        with _open(source, name) as image:
            return _check_pixels(_to_rgb(image, name), name)
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(
            f"{name} is not a picture in a known format ({', '.join(FORMATS)}); it starts with "
            f"{_first_bytes(source)!r}; save it as PNG or JPEG"
        ) from None
    # Decoders raise nearly everything, depending on the format and on where the damage is.
    except Exception as error:
        raise UserError(
            f"{name} cannot be read ({describe_error(error)}); check or replace the file"
        ) from None


_IN_MEMORY = threading.Lock()
"""Held while a PIL image of the caller is read: it may be a file that Pillow reads when its pixels
are first wanted, which two threads must not do at once."""


@contextlib.contextmanager
def _in_memory(image: Image.Image) -> Iterator[Image.Image]:
    with _IN_MEMORY:
        yield image


def _open(
    source: Image.Image | str | os.PathLike[str] | bytes, name: str
) -> contextlib.AbstractContextManager[Image.Image]:
    """The picture, of which only the header is read; it is closed unless the caller opened it."""
    if isinstance(source, Image.Image):
        return _in_memory(source)
    if isinstance(source, bytes):
        return Image.open(io.BytesIO(source), formats=FORMATS)

    # A pipe or a device may never end.
    try:
        mode = os.stat(source).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{name} does not exist; check the path") from None
    if not stat.S_ISREG(mode):
        raise UserError(f"{name} cannot be read (it is no file); check the path")
    return Image.open(source, formats=FORMATS)


def _first_bytes(source: ImageInput) -> bytes:
    """The beginning of a file, which shows its format."""
    if isinstance(source, str | os.PathLike):
        with open(source, "rb") as stream:
            return stream.read(12)
    return source[:12] if isinstance(source, bytes) else b""


def _check_pixels(pixels: np.ndarray, name: str) -> UInt8[np.ndarray, "H W 3"]:
    is_rgb = pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    if not is_rgb or 0 in pixels.shape:
        raise UserError(
            f"{name} must be uint8 [height, width, 3] with at least one pixel; got "
            f"{pixels.dtype} {list(pixels.shape)}; convert it"
        )
    return pixels


def _to_rgb(image: Image.Image, name: str) -> UInt8[np.ndarray, "H W 3"]:
    """Decodes a picture, upright and without transparency."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UserError(
            f"{name} must have at most {MAX_PIXELS} pixels; got {width} x {height}; scale it down"
        )
    bits = _grey_bits(image, name) if image.mode in WIDE_GREY_MODES else 8
    key = _transparent_level(image)

    # The orientation is known only after the pixels, which may come first in the file.
    image.load()
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode in WIDE_GREY_MODES:
        numbers = np.asarray(image)
        grey = _scale_to_8_bits(numbers, bits, name)
        grey = grey if key is None else np.where(numbers == key, np.uint8(255), grey)
        return np.repeat(grey[..., None], 3, axis=2)

    # A picture in memory belongs to the caller, so that it is not changed here.
    if key is not None and key != image.info["transparency"]:
        image = image.copy()
        image.info["transparency"] = key
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _grey_bits(image: Image.Image, name: str) -> int:
    """How many bits a number of a picture in one of ``WIDE_GREY_MODES`` has."""
    if image.mode == "F":
        return 32
    # BitsPerSample: a TIFF of 12 bits has the same mode as one of 16.
    if image.mode != "I" and isinstance(image, TiffImageFile):
        return int(np.max(image.tag_v2.get(258, 16)))

    # Pillow widens the numbers of these formats to 16 bits.
    if image.mode != "I" or image.format in ("PNG", "PPM"):
        return 16
    raise UserError(
        f"{name} must have a known range of numbers; got 32-bit integers; save it with 8 or 16 bits"
    )


def _scale_to_8_bits(numbers: np.ndarray, bits: int, name: str) -> UInt8[np.ndarray, "H W"]:
    """Grey levels 0..255 of integers of ``bits`` bits, or of floats in [0, 1]."""
    # The high byte, which is also what Pillow keeps of colours of 16 bits.
    if np.issubdtype(numbers.dtype, np.integer):
        return (numbers >> (bits - 8)).astype(np.uint8)

    # NaN fails this check too.
    low, high = numbers.min(), numbers.max()
    if not (low >= 0 and high <= 1):
        raise UserError(
            f"{name} must have float pixels from 0 to 1; got {low:g} to {high:g}; scale them, or "
            "save it with 8 bits"
        )
    return np.rint(numbers * 255).astype(np.uint8)


def _transparent_level(image: Image.Image) -> int | tuple[int, ...] | None:
    """The grey level or colour of a PNG that is transparent, in the numbers of its pixels."""
    key = image.info.get("transparency")
    if not isinstance(image, PngImageFile) or isinstance(key, bytes | None):
        return None

    # Pillow scales the pixels of these to 8 bits, but not this level (Pillow 13).
    raw_mode = image.tile[0][3] if image.tile else image.mode
    if raw_mode == "RGB;16B":
        return tuple(level >> 8 for level in key)
    return key * PNG_GREY_STEPS[raw_mode] if raw_mode in PNG_GREY_STEPS else key
