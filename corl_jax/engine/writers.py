"""Where metrics of a run go: JSON lines, and a progress bar on the terminal.

In: one row of floats per step. Out: ``metrics.jsonl``, which a resumed run cuts back, and lines on
stderr.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.checks.json_reader import parse_json, read_lines
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


def rewind_metrics(path: Path, step: int) -> list[int]:
    """Removes the rows of ``metrics.jsonl`` after ``step``, and a half-written last line.

    Returns:
      the steps from 1 to ``step`` that have no row.

    Raises:
      UserError: as ``read_rows``, or the file cannot be written.
    """
    rows = [(line, row["step"]) for line, row in read_rows(path) if row["step"] <= step]
    # Atomic, so that a run killed here loses no row.
    write_atomically(path, b"".join(line.rstrip(b"\n") + b"\n" for line, _ in rows))
    steps = {row_step for _, row_step in rows}
    return [number for number in range(1, step + 1) if number not in steps]


def read_rows(path: Path) -> Iterator[tuple[bytes, dict[str, float]]]:
    """Lines of ``metrics.jsonl`` and their rows; NaN stands for a null.

    A last line that the run was killed in, or is still writing, is left out.

    Raises:
      UserError: another line is not a JSON object of numbers with a ``step``.
    """
    for number, line in read_lines(path):
        try:
            row = _parse_row(line, f"line {number} of {str(path)!r}")
        except UserError:
            # Every finished line ends in a line end.
            if line.endswith(b"\n"):
                raise
            return
        yield line, row


def _parse_row(line: bytes, label: str) -> dict[str, float]:
    advice = "repair or remove the file"
    row = JsonObject.check(parse_json(line, label, advice), label, advice)
    row.integer("step")
    values = {name: row.optional_number(name) for name in row.entries}
    return {name: math.nan if value is None else value for name, value in values.items()}


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
