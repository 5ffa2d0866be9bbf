"""Where metrics of a run go: JSON lines, and a progress bar on the terminal.

In: one row of floats per step. Out: ``metrics.jsonl``, which a resumed run cuts back, and lines on
stderr.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from corl_jax.core.errors import UserError
from corl_jax.core.files import name_write_errors, sync, write_atomically

# Metric name to value, for one step.
Row = Mapping[str, float]

# Prefix of wall-clock columns: the only columns in which two equal runs may differ.
TIME = "time/"


class JsonLines:
    """Appends one JSON object per step to ``path``; NaN and infinity become null.

    Raises:
      UserError: the file cannot be written; also from every method.
    """

    def __init__(self, path: Path):
        self._path = path
        with name_write_errors(path):
            self._file: TextIO = path.open("a", encoding="utf-8")

    def write(self, step: int, row: Row) -> None:
        """Writes ``{"step": step, **row}``."""
        values = {
            name: float(value) if math.isfinite(value) else None for name, value in row.items()
        }
        line = json.dumps({"step": step, **values}, sort_keys=True, allow_nan=False)
        with name_write_errors(self._path):
            self._file.write(line + "\n")
            # A killed run then has every finished row.
            self._file.flush()

    def flush(self) -> None:
        """Returns once every row is on the disk."""
        with name_write_errors(self._path):
            sync(self._path)

    def close(self) -> None:
        """Closes the file."""
        with name_write_errors(self._path):
            self._file.close()


def read_rows(path: Path, step: int) -> list[bytes]:
    """The lines of ``metrics.jsonl`` up to ``step``, without a half-written last line.

    Raises:
      UserError: a line before the last one is no row of a run.
    """
    # Bytes, since a line that was cut short need not be valid UTF-8.
    lines = path.read_bytes().split(b"\n")
    rows = []
    for number, line in enumerate(lines):
        try:
            row_step = parse_row(line)["step"]
        except ValueError as error:
            # The last line is empty, or the run was killed while writing it.
            if number == len(lines) - 1:
                break
            raise UserError(
                f"{path}, line {number + 1}: expected a JSON object with a step; "
                "repair or remove the file"
            ) from error
        if row_step <= step:
            rows.append(line)
    return rows


def parse_row(line: bytes) -> dict[str, float]:
    """A line of ``metrics.jsonl``; what is null there, since JSON has no NaN, is NaN.

    Raises:
      ValueError: it is no JSON object of numbers with a step.
    """
    row = json.loads(line)
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        raise ValueError("no object with a step")
    if not all(value is None or type(value) in (int, float) for value in row.values()):
        raise ValueError("a value is no number")
    return {name: math.nan if value is None else value for name, value in row.items()}


def rewind_metrics(path: Path, step: int) -> list[int]:
    """Removes the rows of ``metrics.jsonl`` after ``step``, and a half-written last line.

    Returns:
      the steps from 1 to ``step`` that have no row.

    Raises:
      UserError: as ``read_rows``, or the file cannot be written.
    """
    rows = read_rows(path, step)
    # Atomic, so that a run killed here loses no row.
    write_atomically(path, b"".join(line + b"\n" for line in rows))
    steps = {parse_row(line)["step"] for line in rows}
    return [number for number in range(1, step + 1) if number not in steps]


class Progress:
    """A progress bar on stderr, followed by some metrics.

    Args:
      total_steps: steps of the run.
      steps_done: steps that were done before.
      columns: metrics to show, in order; those that a row lacks are left out.
      quiet: no bar.
    """

    def __init__(
        self, total_steps: int, steps_done: int, columns: tuple[str, ...], quiet: bool = False
    ):
        self._columns = columns

        # On stderr, so that stdout is free for results; ASCII for logs of any terminal.
        self._bar = tqdm(
            total=total_steps,
            initial=steps_done,
            file=sys.stderr,
            ascii=True,
            mininterval=1.0,
            unit="step",
            disable=quiet,
        )

    def write(self, step: int, row: Row) -> None:
        """Moves the bar to ``step``."""
        # The last part of a name is enough on a narrow terminal.
        values = [
            f"{name.rsplit('/', 1)[-1]}={row[name]:.3g}" for name in self._columns if name in row
        ]
        self._bar.set_postfix_str(" ".join(values), refresh=False)
        self._bar.update(step - self._bar.n)

    def print_line(self, text: str) -> None:
        """Prints a line above the bar."""
        self._bar.write(text, file=sys.stderr)

    def close(self) -> None:
        """Ends the bar's line."""
        self._bar.close()
