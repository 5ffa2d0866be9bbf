"""Where the picture of a row is: in a file, or as bytes in the row itself."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping

import numpy as np

from corl_jax.core.checks.paths import user_path
from corl_jax.core.errors import UserError, describe_error
from corl_jax.data.image_files import load_image

ADDRESSES = ("http://", "https://", "s3://", "gs://", "data:")
"""Beginnings of texts that name no file of this machine."""


@dataclasses.dataclass(frozen=True)
class StoredPicture:
    """A picture in a row.

    Attributes:
      fetch: gives its bytes.
      size: number of bytes.
    """

    fetch: Callable[[], bytes]
    size: int


END_BYTES = 4096
"""Of each end of a picture, in the fingerprint of a source."""

Picture = pathlib.Path | StoredPicture
"""A file, or bytes in a row."""


def picture_pixels(picture: Picture, label: str) -> np.ndarray:
    """The pixels of a picture, uint8 ``[H, W, 3]``.

    Raises:
      UserError: it cannot be read; ``label`` names the record.
    """
    return load_image(picture.fetch() if isinstance(picture, StoredPicture) else picture, label)


def picture_bytes(picture: Picture, label: str) -> bytes:
    """A picture as it is stored.

    Raises:
      UserError: its file cannot be read; ``label`` names the record.
    """
    if isinstance(picture, StoredPicture):
        return picture.fetch()
    try:
        return picture.read_bytes()
    except OSError as error:
        raise UserError(
            f"{label}: image {str(picture)!r} cannot be read ({describe_error(error)}); check the "
            "file"
        ) from None


def picture_ends(picture: Picture) -> bytes:
    """Number of the bytes of a picture, and the first and last ``END_BYTES`` of them.

    Pictures that differ differ there, and large ones on a slow disk need not be read as a whole.
    """
    if isinstance(picture, StoredPicture):
        content = picture.fetch()
        return b"%d " % picture.size + content[:END_BYTES] + content[-END_BYTES:]
    size = picture.stat().st_size
    with picture.open("rb") as file:
        start = file.read(END_BYTES)
        file.seek(max(0, size - END_BYTES))
        return b"%d " % size + start + file.read(END_BYTES)


def read_picture(value: object, column: str, folder: pathlib.Path, location: str) -> Picture | None:
    """Where the picture is that a row has as a path, as bytes, or as an object of both.

    Args:
      value: in the row.
      column: of the value, for errors.
      folder: that paths are relative to.
      location: of the row, for errors.

    Returns:
      None if the row has none.

    Raises:
      UserError: it is something else, or a file that does not exist.
    """
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if isinstance(value, list | tuple) and value:
        raise UserError(
            f"{location}: {column} must be one picture; got {len(value)}. A record has one: name "
            f"it with --config.data.columns.image={column}.0"
        )
    # ``datasets.Image`` writes {"bytes": null, "path": "..."} where the picture is a file.
    if isinstance(value, Mapping):
        content, path = value.get("bytes"), value.get("path")
        value = path if content is None else content
        if value is None:
            raise UserError(
                f"{location}: {column} must be a picture; got an object without 'bytes' and "
                "without a text 'path'. Correct or drop the row"
            )
    if value is None or value == [] or value == ():
        return None
    if isinstance(value, StoredPicture):
        return value
    if isinstance(value, bytes):
        content = value
        return StoredPicture(lambda: content, len(content))
    if not isinstance(value, str):
        raise UserError(
            f"{location}: {column} must be a picture, as its path, as bytes or as an object with "
            f"'bytes' and 'path'; got {type(value).__name__}. Name another column with "
            "--config.data.columns.image"
        )
    if not value.strip():
        return None
    if value.startswith(ADDRESSES):
        raise UserError(
            f"{location}: {column} must be a file on this machine; got {value[:60]!r}. Download "
            "the picture and write its path"
        )
    # A missing image is an error now, not in the middle of the training.
    path = user_path(folder / value, f"{location}: {column}")
    if not path.is_file():
        raise UserError(
            f"{location} names the image {str(path)!r}, which does not exist; check the path"
        )
    return path
