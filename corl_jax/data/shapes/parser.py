"""Reads a scene back out of a picture. In: uint8 pictures ``[N, 48, 48, 3]``; out: a ``Parsed`` for each.

Every cell is judged alone. Pixels far from the background are ink. The cell's colour is the one that most of its ink is
near to; each pixel is then seen as a mixture of that colour and the background, with a share ``alpha`` and a residual,
so that a blurred edge is no stain. The cell holds an object if hardly any ink has a large residual (one colour), if
``alpha`` is high where it covers (not faint), and if the covered pixels overlap well with the template of a shape at
some jitter. Ink that is no object makes the picture unclean, so that a smeared, faint or two-coloured blob earns
nothing. Rendered pictures are read exactly.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from corl_jax.core.errors import UserError
from corl_jax.data.shapes.render import mask
from corl_jax.data.shapes.scene import BACKGROUND, CELL, COLOURS, GRID, SHAPES, SIZE, Scene, Shape

INK_DISTANCE = 45.0
"""RGB distance from the background beyond which a pixel is ink."""
MIN_INK = 20
"""Fewer inked pixels than this in a cell are noise."""
COLOUR_DISTANCE = 60.0
"""RGB distance within which a pixel counts as of a colour, or as a mixture of it and the background."""
MAX_STAIN = 0.15
"""Share of a cell's ink that may be no such mixture."""
MIN_ALPHA = 0.75
"""Mean ``alpha`` of the covered pixels (those with ``alpha`` above one half)."""
MIN_OVERLAP = 0.75
"""Intersection over union that the best template must reach."""

_NAMES = tuple(COLOURS)
_GROUND = np.array(BACKGROUND, np.float32)
_RAYS = np.array(list(COLOURS.values()), np.float32) - _GROUND
_RAY_SQUARES = np.sum(_RAYS**2, 1)
_LABELS = tuple(itertools.product(SHAPES, (-1, 0, 1), (-1, 0, 1)))
_TEMPLATES = (
    np.stack([mask(*label) for label in _LABELS]).reshape(len(_LABELS), -1).astype(np.float32)
)


@dataclasses.dataclass(frozen=True)
class Parsed:
    """The objects that were found; ``clean`` is false where some cell holds ink that is no valid object."""

    scene: Scene
    clean: bool


def parse(picture: np.ndarray) -> Parsed:
    """Reads one picture, uint8 ``[48, 48, 3]``."""
    return parse_batch(np.asarray(picture)[None])[0]


def parse_batch(pictures: np.ndarray) -> list[Parsed]:
    """Reads pictures, uint8 ``[N, 48, 48, 3]``, each on its own.

    Raises:
      UserError: the pictures are of another shape or type.
    """
    pictures = np.asarray(pictures)
    if pictures.shape[1:] != (SIZE, SIZE, 3) or pictures.dtype != np.uint8:
        raise UserError(
            f"the shapes parser got {pictures.dtype} {list(pictures.shape)}; expected uint8 [N, {SIZE}, {SIZE}, 3]: "
            f"resize the pictures first"
        )
    cells = (
        pictures.reshape(-1, GRID, CELL, GRID, CELL, 3).swapaxes(2, 3).reshape(-1, CELL * CELL, 3)
    )
    pixels = cells.astype(np.float32) - _GROUND
    ink = np.einsum("mpc,mpc->mp", pixels, pixels) > INK_DISTANCE**2
    occupied = np.flatnonzero(ink.sum(1) >= MIN_INK)
    found: list[list[Shape]] = [[] for _ in pictures]
    clean = np.ones(len(pictures), bool)
    for cell, (valid, colour, label) in zip(
        occupied, _read_cells(pixels[occupied], ink[occupied]), strict=True
    ):
        picture, place = divmod(int(cell), GRID * GRID)
        if valid:
            (row, col), (shape, dy, dx) = divmod(place, GRID), _LABELS[label]
            found[picture].append(Shape(row, col, _NAMES[colour], shape, dy, dx))
        else:
            clean[picture] = False
    return [Parsed(Scene(tuple(things)), bool(ok)) for things, ok in zip(found, clean, strict=True)]


def _read_cells(pixels: np.ndarray, ink: np.ndarray) -> list[tuple[bool, int, int]]:
    """Is it an object, which colour, which template.

    Args:
      pixels: float32 ``[M, 256, 3]``, background subtracted.
      ink: bool ``[M, 256]``.
    """
    squares = np.einsum("mpc,mpc->mp", pixels, pixels)
    along = pixels @ _RAYS.T
    near = squares[..., None] - 2 * along + _RAY_SQUARES < COLOUR_DISTANCE**2
    colour = (near & ink[..., None]).sum(1).argmax(1)
    alpha = (
        np.take_along_axis(along, colour[:, None, None], 2)[..., 0] / _RAY_SQUARES[colour][:, None]
    )
    mixed = np.clip(alpha, 0, 1)
    residual = squares - mixed * (2 * alpha - mixed) * _RAY_SQUARES[colour][:, None]
    stain = (ink & (residual > COLOUR_DISTANCE**2)).sum(1) / ink.sum(1)
    covered = ink & (alpha > 0.5)
    area = covered.sum(1)
    strength = np.sum(covered * mixed, 1) / np.maximum(area, 1)
    common = covered.astype(np.float32) @ _TEMPLATES.T
    overlap = common / (area[:, None] + _TEMPLATES.sum(1) - common)
    valid = (stain <= MAX_STAIN) & (strength >= MIN_ALPHA) & (overlap.max(1) >= MIN_OVERLAP)
    return list(zip(valid.tolist(), colour.tolist(), overlap.argmax(1).tolist(), strict=True))
