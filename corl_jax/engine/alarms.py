"""Tells when numbers of a run mean that something is wrong: they stand still, one reward decides alone, or what is
learnt does not hold elsewhere.

In: the row of every step. Out: sentences for the progress line and the report.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Iterator, Mapping

SHARE, HELD_OUT = "/reward_std_share/", "/held_out_reward"
"""In the name of a column: what part of a task's differences one reward makes; the reward on held-out prompts."""


@dataclasses.dataclass(frozen=True)
class AlarmConfig:
    """When to speak up.

    Attributes:
      watch: patterns of columns that must move, e.g. ``rewards/*`` and ``grad_norm``.
      patience: steps without any change, or of one reward deciding alone, before it is said.
      dominates: share of the differences within groups above which one of several rewards decides alone.
      probes: how often in a row a held-out reward falls while the trained one rises before it is said.
    """

    watch: tuple[str, ...] = ("grad_norm", "loss")
    patience: int = 20
    dominates: float = 0.95
    probes: int = 3


@dataclasses.dataclass(frozen=True)
class _Probe:
    """A held-out reward, the mean of the trained one since the probe before it, and how long they have parted."""

    held_out: float
    trained: float
    apart: int


class Alarm:
    """Feeds on rows. What it says depends on the rows alone, so that a resumed run says the same."""

    def __init__(self, cfg: AlarmConfig):
        self._cfg = cfg
        self._seen: dict[str, tuple[float, int]] = {}
        self._alone: dict[str, int] = {}
        self._since: dict[str, tuple[float, int]] = {}
        self._probes: dict[str, _Probe] = {}

    def feed(self, row: Mapping[str, float]) -> list[str]:
        """Takes in one step's row.

        Returns:
          one sentence for each column that reached ``patience`` or ``probes`` at this step, or is not finite.
        """
        return [*self._still(row), *self._dominant(row), *self._parting(row)]

    @property
    def ringing(self) -> int:
        """How many alarms hold right now."""
        still = sum(count >= self._cfg.patience for _, count in self._seen.values())
        alone = sum(count >= self._cfg.patience for count in self._alone.values())
        return (
            still + alone + sum(probe.apart >= self._cfg.probes for probe in self._probes.values())
        )

    def _still(self, row: Mapping[str, float]) -> Iterator[str]:
        for name in sorted(row):
            if not any(fnmatch.fnmatchcase(name, pattern) for pattern in self._cfg.watch):
                continue
            value, count = row[name], 0
            if not math.isfinite(value):
                yield f"{name} is {value}"
                continue
            if name in self._seen and self._seen[name][0] == value:
                count = self._seen[name][1]
            self._seen[name] = (value, count + 1)
            if count + 1 == self._cfg.patience:
                yield f"{name} has been exactly {value:g} for {count + 1} steps"

    def _dominant(self, row: Mapping[str, float]) -> Iterator[str]:
        for name in sorted(row):
            if SHARE not in name:
                continue
            count = self._alone[name] + 1 if name in self._alone else 1
            self._alone[name] = count if row[name] > self._cfg.dominates else 0
            if self._alone[name] == self._cfg.patience:
                task, _, reward = name.partition(SHARE)
                yield f"{task}: the reward {reward!r} alone has told samples apart for {count} steps ({row[name]:.0%})"

    def _parting(self, row: Mapping[str, float]) -> Iterator[str]:
        for task in sorted(
            name.removesuffix("/reward") for name in row if name.endswith("/reward")
        ):
            total, count = self._since.pop(task, (0.0, 0))
            total, count = total + row[f"{task}/reward"], count + 1
            if task + HELD_OUT not in row:
                self._since[task] = total, count
                continue
            held_out, trained, before = row[task + HELD_OUT], total / count, self._probes.get(task)
            parted = before is not None and held_out < before.held_out and trained > before.trained
            apart = before.apart + 1 if parted and before is not None else 0
            self._probes[task] = _Probe(held_out, trained, apart)
            if apart == self._cfg.probes:
                yield f"{task}: the reward on held-out prompts fell {apart} times in a row while the trained one rose"
