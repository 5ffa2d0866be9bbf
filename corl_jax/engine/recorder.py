"""All writers of a run behind one call per step.

In: the row and the images of a step. Out: a line of ``metrics.jsonl``, TensorBoard events, PNG
files, the progress bar.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import numpy as np
from PIL import Image

from corl_jax.core.files import write_atomically
from corl_jax.engine.alarms import Alarm, AlarmConfig
from corl_jax.engine.grid_files import png_bytes
from corl_jax.engine.tensorboard import TensorBoard
from corl_jax.engine.workdir import Workdir
from corl_jax.engine.writers import JsonLines, Progress, read_rows, rewind_metrics


class Recorder:
    """Writes on the first process; on the others it only watches for alarms.

    Args:
      workdir: its ``metrics.jsonl`` is first cut back to ``steps_done`` steps.
      total_steps: steps of the run.
      steps_done: steps that the run resumes from; -1 for a new run.
      progress_metrics: columns on the progress bar.
      alarms: the columns to watch. On resume the old rows are read again, for the alarms' state.
        Missing rows are named.
      tensorboard_every: steps between rows of TensorBoard; 0 for none.
      quiet: no progress bar.
    """

    def __init__(
        self,
        workdir: Workdir,
        total_steps: int,
        steps_done: int,
        progress_metrics: tuple[str, ...],
        alarms: AlarmConfig,
        tensorboard_every: int = 1,
        quiet: bool = False,
    ):
        self._workdir = workdir
        self._tensorboard_every = tensorboard_every
        self._is_writer = jax.process_index() == 0
        self._alarm = Alarm(alarms)

        # For a new run -1 removes all rows, also that of step 0; bar and events start at 0.
        first_step = max(steps_done, 0)
        missing: list[int] = []
        if self._is_writer:
            missing = rewind_metrics(workdir.metrics, steps_done)
            self._lines = JsonLines(workdir.metrics)
            self._events = TensorBoard(workdir.tensorboard, first_step)

        # Other processes have a bar too, which prints nothing.
        self._progress = Progress(
            total_steps, first_step, progress_metrics, quiet or not self._is_writer
        )

        # The alarms' state after the rows on disk; every process needs it to stop where all do.
        for _, row in read_rows(workdir.metrics):
            if row["step"] <= steps_done:
                self._alarm.update(row)
        if missing:
            self.log(
                f"{workdir}/metrics.jsonl has no row for {len(missing)} of the {steps_done} steps "
                f"that are done, the first of them step {missing[0]}; the run goes on without them"
            )

    @property
    def skipped_steps(self) -> int:
        """How many steps in a row, up to the newest, had updates that were skipped."""
        return self._alarm.skipped_steps

    def record(
        self, step: int, row: Mapping[str, float], images: Mapping[str, Image.Image]
    ) -> dict[str, float]:
        """Writes the row and the images of a step.

        Returns:
          the row, with the number of active ``alarms`` added.
        """
        messages = self._alarm.update(row)
        complete_row = {**row, "alarms": float(self._alarm.active)}
        if self._is_writer:
            self._write_files(step, complete_row, images)

        # On the terminal, first the new alarms, then the bar below them.
        for message in messages:
            self.log(f"step {step}: {message}")
        self._progress.write(step, complete_row)
        return complete_row

    def _write_files(
        self, step: int, row: Mapping[str, float], images: Mapping[str, Image.Image]
    ) -> None:
        self._lines.write(step, row)

        # TensorBoard cannot show numbers that are not finite. Images always come with their row.
        every = self._tensorboard_every
        writes_events = every > 0 and (step % every == 0 or bool(images))
        if writes_events:
            finite = {name: value for name, value in row.items() if math.isfinite(value)}
            self._events.write(step, finite)

        for name, image in images.items():
            file_name = f"step_{step:06d}_{name.replace('/', '_')}.png"
            write_atomically(self._workdir.samples / file_name, png_bytes(image))
            if writes_events:
                self._events.write_image(step, name, np.asarray(image))

    def log(self, text: str) -> None:
        """Prints a line on stderr, above the progress bar."""
        if self._is_writer:
            self._progress.print_line(text)

    def flush(self) -> None:
        """Brings all rows and images to disk or bucket; no checkpoint may be ahead of them."""
        if self._is_writer:
            self._lines.flush()
            self._events.flush()
            self._workdir.push()

    def close(self) -> None:
        """Closes every file."""
        self._progress.close()
        if self._is_writer:
            self._lines.close()
            self._events.close()
            self._workdir.push()
