"""TensorBoard events of a run, written by the loop itself.

In: one row of floats per step, uint8 images, texts. Out: files of events.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corl_jax.core.files import name_write_errors
from corl_jax.engine.trackers.base import Pixels, TrackedRun, as_code

FOLDER = "tb"
"""Of the event files, in a work directory."""


class TensorBoard:
    """Scalars, images and texts as TensorBoard events; the file is opened on first use.

    Events are written at once and not in a thread, as ``tensorboardX.SummaryWriter`` does, which
    waits for ever once its thread has met a full disk.

    Args:
      folder: for event files.
      config: shown as a text, at the first start of a run.

    Raises:
      UserError: the file cannot be written; from every method.
    """

    is_service = False

    def __init__(self, folder: Path, config: Mapping[str, Any] | None = None):
        self._folder = folder
        self._config = config
        self._first_step: int | None = None
        self._writer: Any = None
        self._has_events = folder.is_dir() and any(folder.iterdir())
        self.last_step = -1

    @classmethod
    def open(cls, run: TrackedRun) -> TensorBoard:
        """The events of a work directory."""
        return cls(run.folder / FOLDER, run.config)

    def rewind(self, steps_done: int) -> None:
        """TensorBoard hides the older events of later steps."""
        # Where there are events, those of the steps that are done are among them.
        if self._has_events:
            self._first_step, self.last_step = steps_done + 1, steps_done

    def write(
        self,
        step: int,
        row: Mapping[str, float],
        images: Mapping[str, Pixels] | None = None,
        texts: Mapping[str, str] | None = None,
    ) -> None:
        """Adds every value of ``row`` as a scalar, and images and texts beside them."""
        from tensorboardX import summary

        for name, value in row.items():
            self._add(step, summary=summary.scalar(name, value))
        for name, pixels in (images or {}).items():
            self._add(step, summary=summary.image(name, pixels, dataformats="HWC"))
        for name, text in (texts or {}).items():
            self._add_text(step, name, text)
        # Whoever watches a run sees its newest row.
        self.flush()

    def _add_text(self, step: int, name: str, text: str) -> None:
        """Adds a text, set as it is."""
        from tensorboardX import summary

        # TensorBoard reads Markdown.
        self._add(step, summary=summary.text(name, as_code(text)))

    def write_evaluation(self, side: str, step: int, metrics: Mapping[str, float]) -> None:
        """Adds the metrics as scalars: a curve has its value before the run and the one after it."""
        self.write(step, {f"evaluation/{name}": value for name, value in metrics.items()})

    def flush(self) -> None:
        """Writes everything to disk."""
        if self._writer is not None:
            with name_write_errors(self._folder):
                self._writer.flush()

    def close(self, is_complete: bool = True) -> None:
        """Flushes and closes."""
        if self._writer is not None:
            with name_write_errors(self._folder):
                self._writer.close()

    def _add(self, step: int, **content: Any) -> None:
        """Adds one event."""
        from tensorboardX.proto.event_pb2 import Event

        event = Event(step=step, wall_time=time.time(), **content)
        with name_write_errors(self._folder):
            self._open().write(event.SerializeToString())

    def _open(self) -> Any:
        """The writer of a new event file, which begins with its version."""
        if self._writer is None:
            # Slow to import, and only needed by runs that write events.
            from tensorboardX.proto.event_pb2 import Event, SessionLog
            from tensorboardX.record_writer import RecordWriter

            self._folder.mkdir(parents=True, exist_ok=True)
            now = time.time()
            # TensorBoard reads files in the order of their names; the host's is nobody's business.
            path = self._folder / f"events.out.tfevents.{now:.6f}.corl_jax"
            self._writer = RecordWriter(str(path))
            version = Event(wall_time=now, file_version="brain.Event:2")
            self._writer.write(version.SerializeToString())
            if self._first_step is not None:
                start = SessionLog(status=SessionLog.START)
                event = Event(wall_time=now, step=self._first_step, session_log=start)
                self._writer.write(event.SerializeToString())
            if not self._has_events and self._config is not None:
                text = json.dumps(self._config, indent=2, sort_keys=True)
                self._add_text(0, "config", text)
        return self._writer
