"""Renders a scene with crisp edges."""

from __future__ import annotations

import functools

import numpy as np

from corl_jax.data.shapes.scene import BACKGROUND, CELL, COLOURS, SIZE, Scene

RADIUS = 6


@functools.cache
def shape_mask(shape: str, dy: int = 0, dx: int = 0) -> np.ndarray:
    """Pixels of a cell that a shape covers: bool ``[16, 16]``, read-only since it is cached.

    The shape is 12 pixels wide and shifted by ``dy`` and ``dx`` from the middle of the cell.

    Raises:
      ValueError: ``shape`` is not a shape of this world.
    """
    # Pixel coordinates relative to the centre of the shape, which is between pixels.
    centre = (CELL - 1) / 2
    y, x = np.mgrid[:CELL, :CELL]
    y, x = y - centre - dy, x - centre - dx

    if shape == "circle":
        covered = x**2 + y**2 <= RADIUS**2
    elif shape == "square":
        covered = (abs(x) < RADIUS) & (abs(y) < RADIUS)
    elif shape == "triangle":
        # The tip is at the top; the width grows with y.
        covered = (abs(y) < RADIUS) & (abs(x) <= (y + RADIUS) / 2)
    else:
        raise ValueError(f"shape must be circle, square or triangle; got {shape!r}")

    # All callers share the cached array.
    covered.flags.writeable = False
    return covered


def render(scene: Scene) -> np.ndarray:
    """The image of ``scene``: uint8 ``[48, 48, 3]``."""
    image = np.empty((SIZE, SIZE, 3), np.uint8)
    image[:] = BACKGROUND
    for shape in scene.objects:
        # A view of the image, so that painting the cell paints the image.
        cell = image[shape.row * CELL :][:CELL, shape.col * CELL :][:, :CELL]
        cell[shape_mask(shape.shape, shape.dy, shape.dx)] = COLOURS[shape.colour]
    return image
