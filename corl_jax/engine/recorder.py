"""All writers of a run behind one call per step.

In: the row, the images and the samples of a step. Out: a line of ``metrics.jsonl``, PNG files, lines
of ``completions/``, what the trackers show, the progress bar.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from PIL import Image

from corl_jax.core.files import write_atomically
from corl_jax.engine.alarms import Alarm, AlarmConfig
from corl_jax.engine.completions import (
    StepSample,
    describe_samples,
    rewind_completions,
    write_completions,
)
from corl_jax.engine.grid_files import png_bytes
from corl_jax.engine.run_history import RunHistory
from corl_jax.engine.trackers.collection import Trackers
from corl_jax.engine.training_progress import TrainingProgress
from corl_jax.engine.workdir import Workdir
from corl_jax.engine.writers import JsonLines, read_rows, rewind_metrics


@dataclasses.dataclass(frozen=True)
class RecorderConfig:
    """What a run shows and keeps of its steps.

    Attributes:
      total_steps: steps of the run.
      progress_metrics: columns on the progress bar.
      alarms: the columns to watch.
      keep_completions: newest steps whose completions stay.
      label: of the run, on the progress bar.
      quiet: no progress bar.
    """

    total_steps: int
    progress_metrics: tuple[str, ...] = ("loss",)
    alarms: AlarmConfig = AlarmConfig()
    keep_completions: int = 8
    label: str = "training"
    quiet: bool = False


class Recorder:
    """Writes on the first process; on the others it only watches for alarms.

    Args:
      workdir: its ``metrics.jsonl`` and ``completions/`` are first cut back to ``steps_done`` steps.
        On resume the old rows are read again, for the alarms and the trackers. Missing rows are
        named.
      cfg: what to show and keep.
      steps_done: steps that the run resumes from; -1 for a new run.
      trackers: what else shows the rows; whoever opened them closes them.
      history: of the run, brought up to date with every checkpoint; None for none.
    """

    def __init__(
        self,
        workdir: Workdir,
        cfg: RecorderConfig,
        steps_done: int,
        trackers: Trackers | None = None,
        history: RunHistory | None = None,
    ):
        self._workdir, self._cfg = workdir, cfg
        self._trackers, self._history = trackers or Trackers(), history
        self._is_writer = jax.process_index() == 0
        self._alarm = Alarm(cfg.alarms)
        self._last_step = max(steps_done, 0)

        # For a new run -1 removes all rows, also that of step 0; the bar starts at 0.
        missing: list[int] = []
        if self._is_writer:
            missing = rewind_metrics(workdir.metrics, steps_done)
            rewind_completions(workdir.path, steps_done)
            self._lines = JsonLines(workdir.metrics)

        # Other processes have a bar too, which prints nothing.
        quiet = cfg.quiet or not self._is_writer
        self._progress = TrainingProgress(
            cfg.total_steps, self._last_step, cfg.progress_metrics, cfg.label, quiet
        )

        # The alarms' state after the rows on disk; every process needs it to stop where all do.
        rows = [row for _, row in read_rows(workdir.metrics) if row["step"] <= steps_done]
        for row in rows:
            self._alarm.update(row)
        if self._is_writer:
            self._trackers.rewind(steps_done, rows)
        if missing:
            self.log(
                f"{workdir}/metrics.jsonl has no row for {len(missing)} of the {steps_done} steps "
                f"that are done, the first of them step {missing[0]}; the run goes on without them"
            )

    @property
    def skipped_steps(self) -> int:
        """How many steps in a row, up to the newest, had updates that were skipped."""
        return self._alarm.skipped_steps

    def show_status(self, status: str) -> None:
        """Shows what is being done until the next row."""
        self._progress.show_status(status)

    def record(
        self,
        step: int,
        row: Mapping[str, float],
        images: Mapping[str, Image.Image],
        samples: Sequence[StepSample] = (),
    ) -> dict[str, float]:
        """Writes the row, the images and the samples of a step.

        Returns:
          the row, with the number of active ``alarms`` added.
        """
        messages = self._alarm.update(row)
        complete_row = {**row, "alarms": float(self._alarm.active)}
        if self._is_writer:
            self._write_files(step, complete_row, images, samples)
        self._last_step = step

        # On the terminal, first the new alarms, then the bar below them.
        for message in messages:
            self.log(f"step {step}: {message}")
        self._progress.write(step, complete_row)
        return complete_row

    def _write_files(
        self,
        step: int,
        row: Mapping[str, float],
        images: Mapping[str, Image.Image],
        samples: Sequence[StepSample],
    ) -> None:
        self._lines.write(step, row)

        for name, image in images.items():
            file_name = f"step_{step:06d}_{name.replace('/', '_')}.png"
            write_atomically(self._workdir.samples / file_name, png_bytes(image))
        if samples:
            write_completions(self._workdir.path, step, samples, self._cfg.keep_completions)

        # What the run itself needs is on the disk by now.
        pixels = {name: np.asarray(image) for name, image in images.items()}
        texts = {"completions": describe_samples(samples)} if samples else {}
        self._trackers.write(step, row, pixels, texts)

    def log(self, text: str) -> None:
        """Prints a line on stderr, above the progress bar."""
        if self._is_writer:
            self._progress.print_line(text)

    def flush(self) -> None:
        """Brings all rows and images to disk or bucket; no checkpoint may be ahead of them."""
        if self._is_writer:
            self._lines.flush()
            self._trackers.flush()
            if self._history is not None:
                self._history.update(self._last_step)
            self._workdir.push()

    def close(self) -> None:
        """Closes every file; the trackers stay open."""
        self._progress.close()
        if self._is_writer:
            self._lines.close()
            self._workdir.push()
