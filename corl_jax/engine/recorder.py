"""All writers of a run behind one call per step.

In: the row and pictures of a step. Out: a line of ``metrics.jsonl``, events, PNG files, the progress bar.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import jax
import numpy as np
from PIL import Image

from corl_jax.engine.alarms import Alarm, AlarmConfig
from corl_jax.engine.workdir import Workdir
from corl_jax.engine.writers import JsonLines, Progress, TensorBoard, rewind_metrics


class Recorder:
    """Writes on the first process, and on the others only watches.

    Args:
      workdir: whose ``metrics.jsonl`` is cut back to ``done`` steps first.
      total: steps of the whole run.
      done: steps that the run resumes from; -1 for a new one.
      show: columns for the progress bar.
      alarm: which columns to watch; what it saw before a resume is read back from ``metrics.jsonl``.
      tensorboard_every: 0 for no events.
      quiet: no progress bar.
    """

    def __init__(
        self,
        workdir: Workdir,
        total: int,
        done: int,
        show: tuple[str, ...],
        alarm: AlarmConfig,
        tensorboard_every: int = 1,
        quiet: bool = False,
    ):
        self._workdir, self._every, self._writes = (
            workdir,
            tensorboard_every,
            jax.process_index() == 0,
        )
        self._alarm = Alarm(alarm)
        if self._writes:
            rewind_metrics(workdir.metrics, done)
            for line in workdir.metrics.read_text().splitlines():
                row = {
                    name: math.nan if value is None else value
                    for name, value in json.loads(line).items()
                }
                self._alarm.feed(row)
            self._lines = JsonLines(workdir.metrics)
            self._events = TensorBoard(workdir.tensorboard, max(done, 0))
        self._progress = Progress(total, max(done, 0), show, quiet or not self._writes)

    def record(
        self, step: int, row: Mapping[str, float], pictures: Mapping[str, Image.Image]
    ) -> dict[str, float]:
        """Writes the row of ``step`` with the number of ringing ``alarms`` added, and returns it."""
        said = self._alarm.feed(row)
        full = {**row, "alarms": float(self._alarm.ringing)}
        if self._writes:
            self._lines.write(step, full)
            events = self._every > 0 and (step % self._every == 0 or bool(pictures))
            if events:
                self._events.write(
                    step, {name: value for name, value in full.items() if math.isfinite(value)}
                )
            for name, picture in pictures.items():
                picture.save(
                    self._workdir.samples / f"step_{step:06d}_{name.replace('/', '_')}.png"
                )
                if events:
                    self._events.picture(step, name, np.asarray(picture))
        for text in said:
            self.say(f"step {step}: {text}")
        self._progress.write(step, full)
        return full

    def say(self, text: str) -> None:
        """A line on stderr, above the bar."""
        if self._writes:
            self._progress.say(text)

    def publish(self) -> None:
        """Makes all rows and pictures so far last; called before a checkpoint, which must not be ahead of them."""
        if self._writes:
            self._events.flush()
            self._workdir.publish()

    def close(self) -> None:
        """Closes every file."""
        self._progress.close()
        if self._writes:
            self._lines.close()
            self._events.close()
            self._workdir.publish()
