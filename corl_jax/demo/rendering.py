"""Parts of the page as HTML, from the templates of this folder; texts are escaped."""

from __future__ import annotations

import base64
import functools
import io

import jinja2
import numpy as np
from PIL import Image

from corl_jax.core.errors import UserError

THUMBNAIL = 192
"""Longer sides of pictures in sheets of a run are scaled down to so many pixels."""


@functools.cache
def _environment() -> jinja2.Environment:
    # A name that a template uses and nobody passes is an error, and never an empty place.
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("corl_jax.demo"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data_uri": data_uri, "decimals": decimals}
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


def png_bytes(pixels: np.ndarray | Image.Image) -> bytes:
    """A PNG file of an image, uint8 ``[H, W, 3]``."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def data_uri(pixels: np.ndarray | Image.Image) -> str:
    """An image as the address of an ``img``: the PNG itself, so that no request follows."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(pixels)).decode()


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """An image, uint8 ``[H, W, 3]``, with sides of at most ``THUMBNAIL``."""
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return np.asarray(image)


def decimals(value: float | None) -> str:
    """A reward or an advantage; a dash where there is none."""
    return "–" if value is None else f"{value:.2f}"
