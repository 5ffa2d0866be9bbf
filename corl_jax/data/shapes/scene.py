"""What can be in a picture of the embedded world, and how likely it is. In: a generator; out: a ``Scene``.

A picture is 48 by 48 pixels, three by three cells of 16 pixels. One to three coloured shapes lie in distinct cells,
each moved by at most a pixel from the middle of its cell.
"""

from __future__ import annotations

import dataclasses

import numpy as np

SHAPES = ("circle", "square", "triangle")
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
CELL = 16
SIZE = GRID * CELL

OBJECT_COUNTS = (1, 2, 3)
COUNT_PROBABILITIES = (0.25, 0.5, 0.25)


@dataclasses.dataclass(frozen=True, order=True)
class Shape:
    """One object: its cell (``row``, ``col`` in 0..2, from the top left), its looks, its jitter in pixels (-1..1)."""

    row: int
    col: int
    colour: str
    shape: str
    dy: int = 0
    dx: int = 0

    @property
    def look(self) -> tuple[str, str]:
        """``(colour, shape)``: what a caption can say about it."""
        return self.colour, self.shape


@dataclasses.dataclass(frozen=True)
class Scene:
    """Objects in distinct cells, in raster order: one to three in a sampled scene, none to nine in a parsed one."""

    objects: tuple[Shape, ...]

    def __post_init__(self):
        object.__setattr__(self, "objects", tuple(sorted(self.objects)))
        cells = [(thing.row, thing.col) for thing in self.objects]
        if len(set(cells)) != len(cells):
            raise ValueError(f"two objects share a cell: {cells}")

    @property
    def looks(self) -> list[tuple[str, str]]:
        """``(colour, shape)`` of every object, in raster order."""
        return [thing.look for thing in self.objects]


def sample_scene(rng: np.random.Generator) -> Scene:
    """Draws a scene; a pure function of the state of ``rng``."""
    count = int(rng.choice(OBJECT_COUNTS, p=COUNT_PROBABILITIES))
    cells = rng.choice(GRID * GRID, size=count, replace=False)
    colours = list(COLOURS)
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
