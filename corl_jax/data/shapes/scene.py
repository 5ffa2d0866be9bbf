"""What can be in an image of the embedded world, and how likely it is.

An image has 48 by 48 pixels: three by three cells of 16 pixels. One to three coloured shapes are in
distinct cells, each shifted by at most one pixel from the middle of its cell.
"""

from __future__ import annotations

import dataclasses

import numpy as np

SHAPES = ("circle", "square", "triangle")
# Name -> RGB. The order is part of the data set, since colours are sampled by position.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 35, 40),
    "green": (35, 155, 60),
    "blue": (45, 85, 225),
    "yellow": (250, 220, 30),
    "purple": (140, 40, 175),
    "orange": (250, 135, 20),
}
BACKGROUND = (238, 238, 238)

GRID = 3
"""Cells per row and per column."""
CELL = 16
"""Side of a cell in pixels."""
SIZE = GRID * CELL
"""Side of an image in pixels."""

OBJECT_COUNTS = (1, 2, 3)
COUNT_PROBABILITIES = (0.25, 0.5, 0.25)


@dataclasses.dataclass(frozen=True, order=True)
class Shape:
    """One object.

    Attributes:
      row, col: its cell, 0 to 2 from the top left.
      colour, shape: its look; keys of ``COLOURS`` and ``SHAPES``.
      dy, dx: its shift in pixels, -1 to 1.
    """

    row: int
    col: int
    colour: str
    shape: str
    dy: int = 0
    dx: int = 0

    @property
    def look(self) -> tuple[str, str]:
        """``(colour, shape)``, all that a caption says about it."""
        return self.colour, self.shape


@dataclasses.dataclass(frozen=True)
class Scene:
    """Objects in distinct cells, in raster order: 1 to 3 if sampled, 0 to 9 if parsed."""

    objects: tuple[Shape, ...]

    def __post_init__(self):
        # Sorted, so that scenes with the same objects are equal.
        object.__setattr__(self, "objects", tuple(sorted(self.objects)))
        cells = [(shape.row, shape.col) for shape in self.objects]
        if len(set(cells)) != len(cells):
            raise ValueError(f"the objects of a scene must be in distinct cells; got {cells}")

    @property
    def looks(self) -> list[tuple[str, str]]:
        """``(colour, shape)`` of every object, in raster order."""
        return [shape.look for shape in self.objects]


def sample_scene(rng: np.random.Generator) -> Scene:
    """Samples a scene; a pure function of the state of ``rng``."""
    count = int(rng.choice(OBJECT_COUNTS, p=COUNT_PROBABILITIES))
    cells = rng.choice(GRID * GRID, size=count, replace=False)
    colours = list(COLOURS)

    # The order of the arguments is the order of the random draws; it must not change.
    return Scene(
        tuple(
            Shape(
                row=int(cell) // GRID,
                col=int(cell) % GRID,
                colour=colours[rng.integers(len(colours))],
                shape=SHAPES[rng.integers(len(SHAPES))],
                dy=int(rng.integers(-1, 2)),
                dx=int(rng.integers(-1, 2)),
            )
            for cell in cells
        )
    )
