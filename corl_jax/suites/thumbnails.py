"""Small copies of the pictures that questions are about, for pages."""

from __future__ import annotations

import concurrent.futures
import io
import pathlib
from collections.abc import Mapping

from PIL import Image

from corl_jax.core.files import write_atomically
from corl_jax.data.sources.pictures import Picture, picture_pixels
from corl_jax.suites.results import PICTURES

SIZE = 256
"""Longest side in pixels."""
WORKERS = 4


def write_thumbnails(folder: pathlib.Path, pictures: Mapping[str, Picture]) -> None:
    """Writes those that are not there yet.

    Args:
      folder: of the results.
      pictures: name of the file to the picture.
    """
    (folder / PICTURES).mkdir(exist_ok=True)

    def write(name: str) -> None:
        path = folder / PICTURES / name
        if path.exists():
            return
        image, content = Image.fromarray(picture_pixels(pictures[name], name)), io.BytesIO()
        image.thumbnail((SIZE, SIZE))
        image.save(content, "JPEG", quality=85)
        write_atomically(path, content.getvalue())

    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(write, pictures))
