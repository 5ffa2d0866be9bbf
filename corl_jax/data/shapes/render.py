"""Draws a scene with crisp edges. In: a ``Scene``; out: a uint8 picture ``[48, 48, 3]``."""

from __future__ import annotations

import functools

import numpy as np

from corl_jax.data.shapes.scene import BACKGROUND, CELL, COLOURS, SIZE, Scene

RADIUS = 6


@functools.cache
def mask(shape: str, dy: int = 0, dx: int = 0) -> np.ndarray:
    """Which pixels of a cell a shape covers: bool ``[16, 16]``, the shape 12 pixels wide and moved by the jitter.

    Raises:
      ValueError: ``shape`` is no shape of this world.
    """
    centre = (CELL - 1) / 2
    y, x = np.mgrid[:CELL, :CELL]
    y, x = y - centre - dy, x - centre - dx
    if shape == "circle":
        covered = x**2 + y**2 <= RADIUS**2
    elif shape == "square":
        covered = (abs(x) < RADIUS) & (abs(y) < RADIUS)
    elif shape == "triangle":
        covered = (abs(y) < RADIUS) & (abs(x) <= (y + RADIUS) / 2)
    else:
        raise ValueError(f"unknown shape {shape!r}")
    covered.flags.writeable = False
    return covered


def render(scene: Scene) -> np.ndarray:
    """The picture of ``scene``: uint8 ``[48, 48, 3]``."""
    picture = np.empty((SIZE, SIZE, 3), np.uint8)
    picture[:] = BACKGROUND
    for thing in scene.objects:
        cell = picture[thing.row * CELL :][:CELL, thing.col * CELL :][:, :CELL]
        cell[mask(thing.shape, thing.dy, thing.dx)] = COLOURS[thing.colour]
    return picture
