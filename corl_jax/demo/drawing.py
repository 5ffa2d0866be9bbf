"""Pictures of a prompt: what to draw, and what is shown of it."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated

import numpy as np
from PIL import Image

from corl_jax.core.checks.config_block import Interval, Seed, Weight, config_block
from corl_jax.core.files import slug
from corl_jax.engine.image_grid import image_grid
from corl_jax.sampling.policy import Policy

MOST_PICTURES = 16
"""Most pictures of one request, so that they fit on a page and in a small device's memory."""
SHEET_SIDE = 192
"""Smallest side of a picture in the grid that is downloaded, by whole magnifications."""

Pictures = Annotated[int, Interval(ge=1, le=MOST_PICTURES), "Another seed draws others"]


@config_block
class DrawRequest:
    """What ``Policy.generate`` gets for one prompt.

    Attributes:
      prompt: what to draw.
      samples: how many pictures.
      guidance: scale of classifier-free guidance; 1 is none.
      temperature: 0 is greedy.
      seed: of sampling.
    """

    prompt: str
    samples: Pictures = 4
    guidance: Weight = 2.0
    temperature: Weight = 1.0
    seed: Seed = 0

    def describe(self) -> str:
        """All of it but the number, to draw the same pictures again."""
        return (
            f"“{self.prompt.strip()}”, seed {self.seed}, guidance scale {self.guidance:g}, "
            f"temperature {self.temperature:g}"
        )


@dataclasses.dataclass(frozen=True)
class DrawnPicture:
    """A picture on the page.

    Attributes:
      index: among all pictures of its place on the page.
      number: within its set, from 0.
      pixels: uint8 ``[H, W, 3]``.
      file_name: under which it is downloaded.
    """

    index: int
    number: int
    pixels: np.ndarray
    file_name: str


@dataclasses.dataclass(frozen=True)
class PictureSet:
    """The pictures that one policy drew of one prompt.

    Attributes:
      title: above them.
      about: their settings.
      prompt: what they are to show.
      pictures: themselves.
      sheet: all of them as one image.
      sheet_name: file name of ``sheet``.
    """

    title: str
    about: str
    prompt: str
    pictures: tuple[DrawnPicture, ...]
    sheet: Image.Image
    sheet_name: str


def draw(policy: Policy, request: DrawRequest) -> np.ndarray:
    """The pictures of a request: uint8 ``[G, H, W, 3]``, those of ``Policy.generate``.

    Raises:
      UserError: as ``Policy.generate``.
    """
    return policy.generate(
        [request.prompt],
        request.samples,
        seed=request.seed,
        guidance=request.guidance,
        temperature=request.temperature,
    )[0]


def make_set(
    images: np.ndarray, request: DrawRequest, title: str, label: str = "", first: int = 0
) -> PictureSet:
    """What the page shows of a request.

    Args:
      images: of ``draw``.
      request: their request.
      title: above the pictures.
      label: begins the names of files; tells policies apart.
      first: index of the first picture on the page.
    """
    # The prompt, the seed and the number: two downloads of different pictures differ in name.
    stem = f"{label}{slug(request.prompt)}-seed{request.seed}"
    pictures = tuple(
        DrawnPicture(first + i, i, pixels, f"{stem}-{i:02d}.png") for i, pixels in enumerate(images)
    )
    return PictureSet(
        title,
        request.describe(),
        request.prompt.strip(),
        pictures,
        make_sheet(images),
        f"{stem}-grid.png",
    )


def make_sheet(images: np.ndarray) -> Image.Image:
    """A nearly square grid of images, uint8 ``[G, H, W, 3]``; small ones are magnified."""
    scale = max(1, SHEET_SIDE // images.shape[1])
    columns = math.ceil(math.sqrt(len(images)))
    return image_grid(images, [str(i + 1) for i in range(len(images))], columns, scale)
