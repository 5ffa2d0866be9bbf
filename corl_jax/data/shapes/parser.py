"""Reads a scene back from an image: uint8 images ``[N, 48, 48, 3]`` to one ``ParsedImage`` each.

Every cell is read alone. Pixels far from the background are ink. The colour of the cell is the one
that most of its ink is near to. Each pixel is then taken as a mixture of that colour and the
background, with a share ``alpha`` and a residual, so that a blurred edge is not a stain. The cell
has an object if hardly any ink has a large residual (one colour), if ``alpha`` is high where it
covers (not faint), and if the covered pixels overlap well with the template of a shape at some
shift. Ink that is not an object makes the image unclean, so that a smeared, faint or two-coloured
blob earns nothing. Rendered images are read exactly.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from corl_jax.core.errors import UserError
from corl_jax.data.shapes.render import shape_mask
from corl_jax.data.shapes.scene import BACKGROUND, CELL, COLOURS, GRID, SHAPES, SIZE, Scene, Shape

INK_DISTANCE = 45.0
"""RGB distance from the background beyond which a pixel is ink."""
MIN_INK = 20
"""Fewer ink pixels than this in a cell are noise."""
COLOUR_DISTANCE = 60.0
"""RGB distance within which a pixel counts as a colour, or as a mixture with the background."""
MAX_STAIN = 0.15
"""Share of a cell's ink that need not be such a mixture."""
MIN_ALPHA = 0.75
"""Least mean ``alpha`` of the covered pixels (those with ``alpha`` above one half)."""
MIN_OVERLAP = 0.75
"""Least intersection over union with the best template."""

_COLOUR_NAMES = tuple(COLOURS)
_BACKGROUND = np.array(BACKGROUND, np.float32)
# A mixture of a colour and the background lies on the ray from the background to the colour.
_RAYS = np.array(list(COLOURS.values()), np.float32) - _BACKGROUND
_RAY_SQUARES = np.sum(_RAYS**2, 1)
# One template per shape and shift (dy, dx), flat: [27, 256].
_LABELS = tuple(itertools.product(SHAPES, (-1, 0, 1), (-1, 0, 1)))
_MASKS = np.stack([shape_mask(*label) for label in _LABELS])
_TEMPLATES = _MASKS.reshape(len(_LABELS), -1).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class ParsedImage:
    """The objects of an image. ``clean`` is false if a cell has ink that is not a valid object."""

    scene: Scene
    clean: bool


def parse(image: np.ndarray) -> ParsedImage:
    """Reads one image, uint8 ``[48, 48, 3]``."""
    return parse_batch(np.asarray(image)[None])[0]


def parse_batch(images: np.ndarray) -> list[ParsedImage]:
    """Reads images, uint8 ``[N, 48, 48, 3]``, independently of each other.

    Raises:
      UserError: the images have another shape or type.
    """
    images = np.asarray(images)
    if images.shape[1:] != (SIZE, SIZE, 3) or images.dtype != np.uint8:
        raise UserError(
            f"images for the shapes parser must be uint8 [N, {SIZE}, {SIZE}, 3]; got "
            f"{images.dtype} {list(images.shape)}. Resize them first"
        )

    # Cells of all images, in raster order: [N * 9, 256, 3].
    grid = images.reshape(-1, GRID, CELL, GRID, CELL, 3)
    cells = grid.swapaxes(2, 3).reshape(-1, CELL * CELL, 3)

    # Only cells with enough ink are read.
    pixels = cells.astype(np.float32) - _BACKGROUND
    ink = np.einsum("mpc,mpc->mp", pixels, pixels) > INK_DISTANCE**2
    occupied_cells = np.flatnonzero(ink.sum(1) >= MIN_INK)
    readings = _read_cells(pixels[occupied_cells], ink[occupied_cells])

    # The readings go back to their images.
    shapes: list[list[Shape]] = [[] for _ in images]
    clean = np.ones(len(images), bool)
    for cell, (valid, colour, label) in zip(occupied_cells, readings, strict=True):
        image_index, position = divmod(int(cell), GRID * GRID)
        if not valid:
            clean[image_index] = False
            continue
        row, col = divmod(position, GRID)
        shape, dy, dx = _LABELS[label]
        shapes[image_index].append(Shape(row, col, _COLOUR_NAMES[colour], shape, dy, dx))

    return [
        ParsedImage(Scene(tuple(image_shapes)), bool(image_clean))
        for image_shapes, image_clean in zip(shapes, clean, strict=True)
    ]


def _read_cells(pixels: np.ndarray, ink: np.ndarray) -> list[tuple[bool, int, int]]:
    """For every cell, whether it is a valid object, its colour and its template.

    Args:
      pixels: float32 ``[M, 256, 3]``, background subtracted.
      ink: bool ``[M, 256]``.
    """
    # The colour that is near to most of the ink. Squared distance by |p|^2 - 2 p.r + |r|^2.
    squares = np.einsum("mpc,mpc->mp", pixels, pixels)
    along_ray = pixels @ _RAYS.T
    near = squares[..., None] - 2 * along_ray + _RAY_SQUARES < COLOUR_DISTANCE**2
    colour = (near & ink[..., None]).sum(1).argmax(1)
    ray_square = _RAY_SQUARES[colour][:, None]

    # Each pixel projected on the ray of that colour; the residual is its distance from the ray.
    alpha = np.take_along_axis(along_ray, colour[:, None, None], 2)[..., 0] / ray_square
    mixture = np.clip(alpha, 0, 1)
    residual = squares - mixture * (2 * alpha - mixture) * ray_square
    stain = (ink & (residual > COLOUR_DISTANCE**2)).sum(1) / ink.sum(1)

    # The pixels that the object covers, and how strongly on average.
    covered = ink & (alpha > 0.5)
    area = covered.sum(1)
    strength = np.sum(covered * mixture, 1) / np.maximum(area, 1)

    # Intersection over union with every template.
    intersection = covered.astype(np.float32) @ _TEMPLATES.T
    overlap = intersection / (area[:, None] + _TEMPLATES.sum(1) - intersection)

    valid = (stain <= MAX_STAIN) & (strength >= MIN_ALPHA) & (overlap.max(1) >= MIN_OVERLAP)
    return list(zip(valid.tolist(), colour.tolist(), overlap.argmax(1).tolist(), strict=True))
