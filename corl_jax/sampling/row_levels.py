"""Which rows a text rollout computes: all of them, then half as many when half have ended, and so on.

A level is a number of rows with the windows of the cache that its loops over tokens read. Each pair
of both is a loop of its own in the program, so there are few. Numbers of rows in, levels out; then
the choice of rows that go on, within each shard, and their results back in the rows they were.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from corl_jax.core.per_device import take_rows
from corl_jax.core.types import pytree

SEGMENT = 144
"""Tokens that are decoded with one window of the cache. A single window would read as much cache
for the first token as for the last. Each segment compiles, so there are few: four for the 576
tokens of Janus-Pro."""

MIN_ROWS = 16
"""Rows of a shard below which no more leave: weights, not rows, are then what a token costs. At 1B
eight of 16 rows would move at least 82 % of the bytes of 16, by compilation for a v5e."""

MAX_HALVINGS = 3
"""Each compiles loops of its own, and the rows that three leave cost an eighth of all."""


@dataclasses.dataclass(frozen=True)
class Level:
    """Loops over tokens for so many rows.

    Attributes:
      rows: of every shard.
      windows: completion positions that each loop reads, ascending; the last has all of them.
    """

    rows: int
    windows: tuple[int, ...]


def plan_levels(
    rows: int, positions: int, *, stacked: bool = False, compiles_layers: bool = False
) -> tuple[Level, ...]:
    """The levels of a text rollout.

    Texts of a single segment have one level: they are over before many rows have ended, and their
    cache is short. So have few rows. Fewer rows read less cache, so they need fewer windows: with
    576 positions the four levels have 4, 2, 1 and 1 loops.

    Args:
      rows: of every shard.
      positions: that are fed back at most.
      stacked: whether the cache is one array of all layers. Its rows then stay together: for 32
        rows of 1B on a v5e, half of a stack beside the whole took the rollout to 19.3 GiB of 16.
      compiles_layers: whether each loop compiles every layer by itself, which takes minutes for many
        loops of a deep model; then there are half as many windows and one halving less.
    """
    windows = tuple(min(end, positions) for end in range(SEGMENT, positions + SEGMENT, SEGMENT))
    windows = windows or (positions,)
    halvings = MAX_HALVINGS if len(windows) > 1 and not stacked else 0
    if compiles_layers:
        windows, halvings = _every_second(windows), max(halvings - 1, 0)

    levels = [Level(rows, windows)]
    for _ in range(halvings):
        if -(-rows // 2) < MIN_ROWS:
            break
        rows, windows = -(-rows // 2), _every_second(windows)
        levels.append(Level(rows, windows))
    return tuple(levels)


def _every_second(windows: tuple[int, ...]) -> tuple[int, ...]:
    """Half of the windows, the last one included."""
    return windows[::-1][::2][::-1]


@pytree()
class RowChoice:
    """Rows of a level that go on in the next one.

    Attributes:
      rows: int ``[D, M]``, their numbers within each of ``D`` shards, all different.
      places: int ``[D, N]``, where among the ``M`` each row of the level is; ``M`` or more for none.
    """

    rows: Int[Array, "D M"]
    places: Int[Array, "D N"]

    @classmethod
    def of_running(cls, done: Bool[Array, "N"], shards: int, rows: int) -> RowChoice:
        """The rows of each shard that still sample, filled up to ``rows`` with some that ended."""
        order = jnp.argsort(done.reshape(shards, -1), 1, stable=True)
        return cls(order[:, :rows], jnp.argsort(order, 1))

    def take(self, x: jax.Array) -> jax.Array:
        """The chosen rows of ``x``, ``[D * N, ...]`` to ``[D * M, ...]``."""
        return take_rows(x, self.rows)

    def put_back(self, x: jax.Array, chosen: jax.Array) -> jax.Array:
        """``x [D * N, ...]`` with the rows of ``chosen [D * M, ...]`` in the places they are from."""
        last = self.rows.shape[1] - 1
        is_chosen = (self.places <= last).reshape(-1, *[1] * (x.ndim - 1))
        return jnp.where(is_chosen, take_rows(chosen, jnp.minimum(self.places, last)), x)


def most_running(done: Bool[Array, "N"], shards: int) -> Int[Array, ""]:
    """Rows that still sample in the shard that has the most of them."""
    return jnp.max(jnp.sum(~done.reshape(shards, -1), 1))
