"""Where numbers and pictures of a run go: JSON lines, TensorBoard, and a bar on the terminal.

In: one row of floats per step, uint8 pictures. Out: files in the work directory and lines on stderr.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

import numpy as np
from tqdm import tqdm

from corl_jax.core.errors import UserError
from corl_jax.core.files import write_whole

Row = Mapping[str, float]
TIME = "time/"
"""Prefix of wall-clock columns: the only ones in which two equal runs may differ."""


class JsonLines:
    """Appends one object per step to ``path``, keys sorted, flushed line by line. NaN and infinity become null."""

    def __init__(self, path: Path):
        self._file: TextIO = path.open("a", encoding="utf-8")

    def write(self, step: int, row: Row) -> None:
        """Writes ``{"step": step, **row}``."""
        numbers = {
            name: float(value) if math.isfinite(value) else None for name, value in row.items()
        }
        self._file.write(
            json.dumps({"step": step, **numbers}, sort_keys=True, allow_nan=False) + "\n"
        )
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def rewind_metrics(path: Path, step: int) -> None:
    """Keeps the rows of ``metrics.jsonl`` up to ``step``; later rows and a half-written last line go.

    Raises:
      UserError: a line before the last one is not JSON with a ``step``.
    """
    lines = path.read_bytes().split(b"\n")
    kept = []
    for number, line in enumerate(lines):
        try:
            row_step = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines) - 1:
                break
            raise UserError(
                f"{path}, line {number + 1}: expected a JSON object with a step; repair or remove the file"
            ) from error
        if row_step <= step:
            kept.append(line)
    write_whole(path, b"".join(line + b"\n" for line in kept))


class TensorBoard:
    """Scalars and pictures as TensorBoard events under ``folder``; the file is opened on first use."""

    def __init__(self, folder: Path, first_step: int = 0):
        self._folder, self._first, self._events = folder, first_step, None

    def _writer(self):
        if self._events is None:
            from tensorboardX import (
                SummaryWriter,  # slow to import, and wanted only by runs that write
            )

            self._events = SummaryWriter(
                str(self._folder), purge_step=self._first + 1 if self._first else None
            )
        return self._events

    def write(self, step: int, row: Row) -> None:
        """Adds every number of ``row`` as a scalar."""
        for name, value in row.items():
            self._writer().add_scalar(name, value, step)

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Adds a uint8 ``[H, W, 3]`` picture."""
        self._writer().add_image(name, pixels, step, dataformats="HWC")

    def flush(self) -> None:
        """Brings everything to disk."""
        if self._events is not None:
            self._events.flush()

    def close(self) -> None:
        """Flushes and closes."""
        if self._events is not None:
            self._events.close()


class Progress:
    """A bar on stderr with the numbers that matter most behind it.

    Args:
      total: steps of the run.
      done: steps done already.
      shown: columns to show, in order; those that a row lacks are left out.
    """

    def __init__(self, total: int, done: int, shown: tuple[str, ...], quiet: bool = False):
        self._shown = shown
        self._bar = tqdm(
            total=total,
            initial=done,
            file=sys.stderr,
            ascii=True,
            mininterval=1.0,
            unit="step",
            disable=quiet,
        )

    def write(self, step: int, row: Row) -> None:
        """Moves the bar to ``step``."""
        numbers = " ".join(
            f"{name.rsplit('/', 1)[-1]}={row[name]:.3g}" for name in self._shown if name in row
        )
        self._bar.set_postfix_str(numbers, refresh=False)
        self._bar.update(step - self._bar.n)

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        self._bar.write(text, file=sys.stderr)

    def close(self) -> None:
        """Ends the bar's line."""
        self._bar.close()
