"""Tells when a number that should move does not.

In: the row of every step. Out: sentences for the progress line.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class AlarmConfig:
    """``watch``: patterns of columns, e.g. ``rewards/*`` and ``grad_norm``; ``patience``: steps without any change."""

    watch: tuple[str, ...] = ("grad_norm", "loss")
    patience: int = 20


class Alarm:
    """Counts for how many steps each watched column has kept exactly one value."""

    def __init__(self, cfg: AlarmConfig):
        self._cfg = cfg
        self._seen: dict[str, tuple[float, int]] = {}

    def feed(self, row: Mapping[str, float]) -> list[str]:
        """Takes in one step's row.

        Returns:
          one sentence for each column that reached ``patience`` equal values at this step, or is not finite.
        """
        said = []
        for name in self._watched(row):
            value, count = row[name], 0
            if not math.isfinite(value):
                said.append(f"{name} is {value}")
                continue
            if name in self._seen and self._seen[name][0] == value:
                count = self._seen[name][1]
            self._seen[name] = (value, count + 1)
            if count + 1 == self._cfg.patience:
                said.append(f"{name} has been exactly {value:g} for {count + 1} steps")
        return said

    @property
    def ringing(self) -> int:
        """How many columns stand still right now."""
        return sum(count >= self._cfg.patience for _, count in self._seen.values())

    def _watched(self, row: Mapping[str, float]) -> list[str]:
        return [name for name in sorted(row) if any(fnmatch.fnmatchcase(name, p) for p in self._cfg.watch)]
