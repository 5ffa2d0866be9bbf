"""Parts of the page as HTML, from the templates of this folder; texts are escaped."""

from __future__ import annotations

import base64
import functools
import math
import pathlib

import jinja2
import numpy as np
from PIL import Image

from corl_jax.core.errors import UserError
from corl_jax.data.image_files import load_image
from corl_jax.demo.answering import AnswerParts, split_answer
from corl_jax.engine.completions import SavedSample
from corl_jax.engine.grid_files import png_bytes
from corl_jax.report.rendering import page_templates

THUMBNAIL = 192
"""Longer sides of pictures in sheets of a run are scaled down to so many pixels."""


@functools.cache
def _environment() -> jinja2.Environment:
    environment = page_templates("corl_jax.demo")
    environment.filters |= {
        "data_uri": data_uri,
        "thumbnail_uri": thumbnail_uri,
        "parts": answer_parts,
        "decimals": decimals,
    }
    return environment


def render(template: str, **values: object) -> str:
    """A template of ``templates/`` with its values filled in.

    Args:
      template: file name.
      **values: by the names that the template uses; ``Markup`` alone is put in as it is.

    Raises:
      jinja2.UndefinedError: a value is missing.
    """
    return _environment().get_template(template).render(**values)


def problem(error: UserError) -> str:
    """An error that a user can mend, as text of the page."""
    return render("status.html", kind="problem", text=str(error))


def hint(text: str) -> str:
    """What can be done here."""
    return render("status.html", kind="hint", text=text)


def busy(text: str) -> str:
    """What is being done now."""
    return render("status.html", kind="busy", text=text)


def done(text: str) -> str:
    """What has been done."""
    return render("status.html", kind="done", text=text)


def data_uri(pixels: np.ndarray | Image.Image) -> str:
    """An image as the address of an ``img``: the PNG itself, so that no request follows."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    return "data:image/png;base64," + base64.b64encode(png_bytes(image)).decode()


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """An image, uint8 ``[H, W, 3]``, with sides of at most ``THUMBNAIL``."""
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return np.asarray(image)


def thumbnail_uri(path: pathlib.Path) -> str:
    """``data_uri`` of a picture file, with sides of at most ``THUMBNAIL``.

    Raises:
      UserError: the file is missing or damaged.
    """
    return data_uri(thumbnail(load_image(path)))


def answer_parts(sample: SavedSample) -> AnswerParts:
    """The thinking and the answer of a sample of a run."""
    return split_answer(sample.completion or "", sample.is_truncated)


def decimals(value: float) -> str:
    """A reward or an advantage; a dash where there is none."""
    return "–" if math.isnan(value) else f"{value:.2f}"
