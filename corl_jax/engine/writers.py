"""Where metrics of a run go: one JSON line per step in ``metrics.jsonl``, which a resumed run cuts back."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

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
