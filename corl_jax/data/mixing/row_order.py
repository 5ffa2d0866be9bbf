"""Which rows of a mixture a step has: a pure function of (seed, step)."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Sequence

import grain
import numpy as np

from corl_jax.data.mixing.quotas import Quotas


@dataclasses.dataclass(frozen=True)
class Stream:
    """Rows that a mixture gives to every step: those of one task, or of all tasks together.

    Attributes:
      name: of the tasks; it decides the order of the records, beside the seed.
      quotas: how many of the rows each part has.
    """

    name: str
    quotas: Quotas


@dataclasses.dataclass(frozen=True)
class MixedOrder:
    """Every part goes through its records epoch by epoch, each in a new order.

    A part that is small comes around more often than a large one of the same weight. The order
    within a part does not depend on the other parts.

    Attributes:
      names: of the parts.
      offsets: position of the first record of each part, and the number of records.
      streams: their rows follow each other within a step.
      seed: of the order.
    """

    names: tuple[str, ...]
    offsets: tuple[int, ...]
    streams: tuple[Stream, ...]
    seed: int

    def __call__(self, step: int) -> np.ndarray:
        """Positions of the records of a step, int64."""
        rows = []
        for number, stream in enumerate(self.streams):
            for part, count in stream.quotas.parts_and_numbers(step):
                rows.append(self.offsets[part] + int(self._epochs[number][part][count]))
        return np.array(rows, np.int64)

    @functools.cached_property
    def _epochs(self) -> Sequence[Sequence[grain.MapDataset[int]]]:
        """Stream and part to the positions within the part, endless."""
        lengths = np.diff(self.offsets).tolist()
        return [
            [
                shuffled(length, self.seed, f"{stream.name}/{name}").repeat()
                for name, length in zip(self.names, lengths, strict=True)
            ]
            for stream in self.streams
        ]

    def with_seed_of(self, name: str) -> MixedOrder:
        """An order of its own for another purpose."""
        return dataclasses.replace(self, seed=named_seed(self.seed, name))


def shuffled(length: int, seed: int, name: str) -> grain.MapDataset[int]:
    """0 to ``length - 1`` in an order of its own for every name; epochs differ if it is repeated."""
    return grain.MapDataset.range(length).seed(named_seed(seed, name)).shuffle()


def named_seed(seed: int, name: str) -> int:
    """A seed of 31 bits that depends on ``seed`` and ``name``."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
