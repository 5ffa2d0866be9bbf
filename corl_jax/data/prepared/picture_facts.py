"""What a picture is: decoded as a whole, in a worker process."""

from __future__ import annotations

import dataclasses
import io

from PIL import Image

from corl_jax.core.errors import UserError
from corl_jax.data.image_files import load_image

THUMBNAIL_SIDE = 128
"""Largest side of a thumbnail, in pixels."""


@dataclasses.dataclass(frozen=True)
class PictureFacts:
    """A picture that was decoded.

    Attributes:
      problem: why it cannot be used; "" if it can, else the other fields are empty.
      format: by Pillow's name.
      mode: of its pixels, by Pillow's name, such as ``RGB`` or ``I;16``.
      width, height: in pixels, upright.
      thumbnail: a small copy as JPEG; empty unless it was asked for.
    """

    problem: str = ""
    format: str = ""
    mode: str = ""
    width: int = 0
    height: int = 0
    thumbnail: bytes = b""


def picture_facts(data: bytes, label: str, with_thumbnail: bool) -> PictureFacts:
    """Decodes a picture and describes it; ``label`` names it in the problem."""
    try:
        pixels = load_image(data, label)
    except UserError as error:
        return PictureFacts(problem=str(error))

    # It could be opened a moment ago, and its header alone is read here.
    with Image.open(io.BytesIO(data)) as image:
        picture_format, mode = str(image.format), image.mode
    height, width, _ = pixels.shape
    thumbnail = _thumbnail(Image.fromarray(pixels)) if with_thumbnail else b""
    return PictureFacts("", picture_format, mode, width, height, thumbnail)


def _thumbnail(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
