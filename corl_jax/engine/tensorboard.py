"""TensorBoard events of a run, written by the loop itself.

In: one row of floats per step, uint8 images. Out: files of events.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from corl_jax.core.files import name_write_errors


class TensorBoard:
    """Scalars and images as TensorBoard events under ``folder``; the file is opened on first use.

    Events are written at once and not in a thread, as ``tensorboardX.SummaryWriter`` does, which
    waits for ever once its thread has met a full disk.

    Args:
      folder: for event files.
      first_step: the step that a run resumes from; TensorBoard hides older events after it.

    Raises:
      UserError: the file cannot be written; from every method.
    """

    def __init__(self, folder: Path, first_step: int = 0):
        self._folder = folder
        self._first_step = first_step
        self._writer: Any = None

    def write(self, step: int, row: Mapping[str, float]) -> None:
        """Adds every value of ``row`` as a scalar."""
        from tensorboardX import summary

        for name, value in row.items():
            self._add(step, summary=summary.scalar(name, value))
        # Whoever watches a run sees its newest row.
        self.flush()

    def write_image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Adds a uint8 ``[H, W, 3]`` image."""
        from tensorboardX import summary

        self._add(step, summary=summary.image(name, pixels, dataformats="HWC"))

    def flush(self) -> None:
        """Writes everything to disk."""
        if self._writer is not None:
            with name_write_errors(self._folder):
                self._writer.flush()

    def close(self) -> None:
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
            if self._first_step:
                start = SessionLog(status=SessionLog.START)
                event = Event(wall_time=now, step=self._first_step + 1, session_log=start)
                self._writer.write(event.SerializeToString())
        return self._writer
