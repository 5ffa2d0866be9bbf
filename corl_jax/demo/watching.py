"""What a work directory says of its run: how far it is, its metrics, its samples.

A run may be going on, and people copy and edit these files: each part that cannot be read becomes a
sentence, and the others are shown.
"""

from __future__ import annotations

import dataclasses
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from corl_jax.core.checks.paths import check_inside, user_path
from corl_jax.core.errors import UserError
from corl_jax.engine.completions import FOLDER as COMPLETIONS
from corl_jax.engine.completions import saved_steps
from corl_jax.report.run_files import read_config, read_metrics, read_transcripts

T = TypeVar("T")

CONFIG, METRICS, SAMPLES = "config.json", "metrics.jsonl", "samples"
FRESH_SECONDS, FRESH_STEPS = 60.0, 5.0
"""A run counts as going on as long as its last row is younger than this, or than so many steps take."""
NEWEST = 50
"""So many work directories are offered, those of the newest metrics."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A work directory, read.

    Attributes:
      folder: itself.
      status: how far the run is, in one sentence.
      rows: of ``metrics.jsonl``, NaN for null.
      sheets: sample sheets, by file name.
      completion_steps: steps with a file in ``completions/``, the last one first.
      transcripts: content of ``samples/answers_SIDE.json`` by side.
      problems: a sentence for each part that cannot be read.
    """

    folder: pathlib.Path
    status: str
    rows: Sequence[Mapping[str, float]]
    sheets: Mapping[str, pathlib.Path]
    completion_steps: tuple[int, ...]
    transcripts: Mapping[str, Sequence[Mapping]]
    problems: tuple[str, ...]


def find_runs(root: pathlib.Path) -> list[pathlib.Path]:
    """Work directories in ``root`` and one level below, those of the newest metrics first."""
    configs = [*root.glob(f"*/{CONFIG}"), *root.glob(f"*/*/{CONFIG}")]
    folders = sorted((path.parent for path in configs), key=_last_write, reverse=True)
    return folders[:NEWEST]


def check_run(folder: str | pathlib.Path) -> pathlib.Path:
    """The path of a work directory.

    Raises:
      UserError: there is no such folder, or it is of something else.
    """
    path = user_path(folder, "the work directory")
    if not (path / CONFIG).is_file() and not (path / METRICS).is_file():
        raise UserError(
            f"the work directory must have a {CONFIG} or {METRICS}; got {str(folder)!r}, which has "
            "neither. Name the folder of --workdir"
        )
    return path


def read_run(folder: pathlib.Path, now: float | None = None) -> Run:
    """Reads a work directory, as far as it can be read.

    Args:
      folder: of ``check_run``.
      now: seconds since the epoch; the clock's by default.
    """
    problems: list[str] = []

    def attempt(read: Callable[[pathlib.Path], T], otherwise: T) -> T:
        try:
            return read(folder)
        except UserError as error:
            problems.append(str(error))
            return otherwise

    rows: Sequence[Mapping[str, float]] = attempt(read_metrics, [])
    steps = attempt(_total_steps, None)
    age = (time.time() if now is None else now) - _last_write(folder)
    return Run(
        folder=folder,
        status=describe_progress(int(rows[-1]["step"]) if rows else 0, steps, age, _patience(rows)),
        rows=rows,
        sheets=attempt(list_sheets, {}),
        completion_steps=tuple(reversed(saved_steps(folder))),
        transcripts=attempt(read_transcripts, {}),
        problems=tuple(problems),
    )


def describe_progress(
    step: int, steps: int | None, age: float, patience: float = FRESH_SECONDS
) -> str:
    """How far a run is.

    Args:
      step: of the last row, 0 for none.
      steps: of the whole run, None where they are not known.
      age: seconds since the last row.
      patience: seconds from which on it is said that nothing is written.
    """
    if step == 0:
        return "No step is done yet: the first one compiles."
    total = "" if steps is None else f" of {steps}"
    if steps is not None and step >= steps:
        return f"Finished at step {step}{total}."
    if age < patience:
        return f"Running: step {step}{total}, the last one {_duration(max(age, 0))} ago."
    return f"At step {step}{total}; nothing was written for {_duration(age)}."


def fingerprint(folder: pathlib.Path) -> str:
    """A text that changes when there is something new to show."""
    paths = [folder / METRICS, folder / CONFIG]
    paths += sorted([*folder.glob(f"{COMPLETIONS}/*"), *folder.glob(f"{SAMPLES}/*")])
    parts = []
    for path in paths:
        # A run removes old files at any time.
        try:
            facts = path.stat()
        except FileNotFoundError:
            continue
        parts.append(f"{path.name} {facts.st_size} {facts.st_mtime_ns}")
    return "\n".join(parts)


def _patience(rows: Sequence[Mapping[str, float]]) -> float:
    """Seconds after which a run without a new row seems to stand still."""
    # The first step also compiles.
    times = [row["time/step"] for row in rows[1:] if "time/step" in row]
    return max(FRESH_SECONDS, FRESH_STEPS * statistics.median(times)) if times else FRESH_SECONDS


def _total_steps(folder: pathlib.Path) -> int | None:
    # A copy of the metrics alone is something to look at, too.
    return read_config(folder).integer("steps") if (folder / CONFIG).exists() else None


def list_sheets(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Sample sheets by what they are called on the page, the last one first."""
    sheets = {}
    for path in sorted((folder / SAMPLES).glob("step_*.png"), reverse=True):
        check_inside(path, folder)
        # step_000025_rollout.png
        step, _, name = path.stem.removeprefix("step_").partition("_")
        sheets[f"step {int(step)}: {name}" if step.isdigit() else path.stem] = path
    return sheets


def _last_write(folder: pathlib.Path) -> float:
    """When a run wrote a row, or where it has none its config; seconds since the epoch."""
    path = folder / METRICS
    path = path if path.is_file() else folder / CONFIG
    return path.stat().st_mtime if path.is_file() else 0.0


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
