"""Alarms: metrics of a run that suggest a fault.

An update was skipped; a metric is not finite, or does not change at all; a single reward decides
alone; or the reward on held-out prompts falls while the trained one rises. In: the row of metrics
of every step. Out: sentences for the progress bar and the report.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Iterator, Mapping

from corl_jax.core.checks.config_block import PositiveInt, Share, config_block

# In a column's name: the share of the within-group reward std that one reward makes.
STD_SHARE = "/reward_std_share/"

# At the end of a column's name: the reward on held-out prompts.
HELD_OUT_REWARD = "/held_out_reward"

# Column: updates of the step that were skipped, since their loss or gradient was not finite.
SKIPPED_UPDATES = "skipped_updates"


@config_block
class AlarmConfig:
    """When an alarm is raised.

    Attributes:
      watch: patterns of columns that must change, e.g. ``rewards/*`` and ``grad_norm``.
      patience: steps without any change, or with a dominating reward, until the alarm.
      dominant_share: the share of reward differences within groups above which one of several
        rewards dominates.
      diverging_probes: how often in a row a held-out reward falls while the trained one rises,
        until the alarm.
    """

    watch: tuple[str, ...] = ("grad_norm", "loss")
    patience: PositiveInt = 20
    dominant_share: Share = 0.95
    diverging_probes: PositiveInt = 3


@dataclasses.dataclass(frozen=True)
class _Probe:
    """The last probe of a task's held-out prompts.

    Attributes:
      held_out: mean reward on held-out prompts.
      trained: mean reward in training since the probe before.
      diverging: probes in a row at which the first fell and the second rose.
    """

    held_out: float
    trained: float
    diverging: int


class Alarm:
    """Watches the rows of a run.

    Its state depends on the rows alone, so a resumed run that reads its old rows again raises the
    same alarms.
    """

    def __init__(self, cfg: AlarmConfig):
        self._cfg = cfg
        # Column to its last value, and for how many steps it has had it.
        self._unchanged: dict[str, tuple[float, int]] = {}
        # Column of a reward's share to the number of steps in a row in which it dominates.
        self._dominating: dict[str, int] = {}
        # Task to the sum and the number of training rewards since its last probe.
        self._since_probe: dict[str, tuple[float, int]] = {}
        self._last_probe: dict[str, _Probe] = {}
        # Watched columns that are NaN or infinite.
        self._not_finite: set[str] = set()
        # The newest steps in a row with skipped updates.
        self._skipped_steps = 0

    def update(self, row: Mapping[str, float]) -> list[str]:
        """Takes in the row of one step.

        Returns:
          one sentence for each alarm that begins at this step.
        """
        return [
            *self._check_skipped(row),
            *self._check_unchanged(row),
            *self._check_dominating(row),
            *self._check_held_out(row),
        ]

    @property
    def active(self) -> int:
        """Number of alarms that hold at this step."""
        unchanged = sum(count >= self._cfg.patience for _, count in self._unchanged.values())
        dominating = sum(count >= self._cfg.patience for count in self._dominating.values())
        diverging = sum(
            probe.diverging >= self._cfg.diverging_probes for probe in self._last_probe.values()
        )
        is_skipping = self._skipped_steps > 0
        return unchanged + dominating + diverging + len(self._not_finite) + is_skipping

    @property
    def skipped_steps(self) -> int:
        """How many steps in a row, up to the newest, had updates that were skipped."""
        return self._skipped_steps

    def _check_skipped(self, row: Mapping[str, float]) -> Iterator[str]:
        """A sentence for a step with skipped updates."""
        # Step 0 of a run, which only reports, has no updates.
        if SKIPPED_UPDATES not in row:
            return
        skipped = row[SKIPPED_UPDATES]
        self._skipped_steps = self._skipped_steps + 1 if skipped else 0
        if skipped:
            noun = "update was" if skipped == 1 else "updates were"
            yield f"{skipped:g} {noun} skipped, since loss or gradient is not finite"

    def _check_unchanged(self, row: Mapping[str, float]) -> Iterator[str]:
        """Sentences for watched columns that are not finite, or have not changed for too long."""
        for name in sorted(row):
            if not any(fnmatch.fnmatchcase(name, pattern) for pattern in self._cfg.watch):
                continue
            value = row[name]
            if not math.isfinite(value):
                if name not in self._not_finite:
                    yield f"{name} is {value}"
                self._not_finite.add(name)
                continue
            self._not_finite.discard(name)

            # Equal floats: a metric that is alive differs at least in its last digit.
            last_value, count = self._unchanged.get(name, (value, 0))
            count = count + 1 if last_value == value else 1
            self._unchanged[name] = (value, count)
            if count == self._cfg.patience:
                yield f"{name} has been exactly {value:g} for {count} steps"

    def _check_dominating(self, row: Mapping[str, float]) -> Iterator[str]:
        """Sentences for rewards that make nearly all differences within groups."""
        for name in sorted(row):
            if STD_SHARE not in name:
                continue
            count = self._dominating.get(name, 0) + 1
            self._dominating[name] = count if row[name] > self._cfg.dominant_share else 0
            if self._dominating[name] == self._cfg.patience:
                task, _, reward = name.partition(STD_SHARE)
                yield (
                    f"{task}: for {count} steps the reward {reward!r} alone has made the "
                    f"difference between samples of a group ({row[name]:.0%})"
                )

    def _check_held_out(self, row: Mapping[str, float]) -> Iterator[str]:
        """Sentences for tasks that improve in training and not on held-out prompts."""
        tasks = sorted(name.removesuffix("/reward") for name in row if name.endswith("/reward"))
        for task in tasks:
            total, count = self._since_probe.pop(task, (0.0, 0))
            total += row[f"{task}/reward"]
            count += 1

            # Between probes the training reward is only added up.
            if task + HELD_OUT_REWARD not in row:
                self._since_probe[task] = total, count
                continue

            held_out, trained = row[task + HELD_OUT_REWARD], total / count
            last = self._last_probe.get(task)
            diverging = 0
            if last is not None and held_out < last.held_out and trained > last.trained:
                diverging = last.diverging + 1
            self._last_probe[task] = _Probe(held_out, trained, diverging)
            if diverging == self._cfg.diverging_probes:
                yield (
                    f"{task}: the reward on held-out prompts fell {diverging} times in a row while "
                    "the trained one rose"
                )
