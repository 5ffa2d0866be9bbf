"""What a run left in its work directory, and how it differs from what an unbroken run leaves."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Collection, Mapping
from pathlib import Path

from digests import digest_checkpoint
from helpers import metric_rows

Row = Mapping[str, float | None]

_READING = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Remains:
    """All of a finished run that must not depend on what happened to it.

    Attributes:
      rows: of ``metrics.jsonl``, without the columns that say how long a step took.
      arrays: path to hash of every array in the last checkpoint: parameters, moments of the
        optimizer, state of the algorithm.
      position: of the data, as JSON.
      samples: name to hash of every sheet of samples.
    """

    rows: list[Row]
    arrays: dict[str, str]
    position: str
    samples: dict[str, str]

    def without_rows(self, steps: Collection[int]) -> Remains:
        """The same without the rows of some steps."""
        return dataclasses.replace(
            self, rows=[row for row in self.rows if row["step"] not in steps]
        )


def read_remains(workdir: Path) -> Remains:
    """What is left in ``workdir`` of a run that has saved its last step."""
    folder = workdir / "checkpoints" / str(saved_steps(workdir)[-1])
    # One thread at a time: Orbax reads with threads of its own.
    with _READING:
        arrays = digest_checkpoint(folder / "state")
    return Remains(
        rows=metric_rows(workdir),
        arrays=arrays,
        position=(folder / "data" / "position.json").read_text("utf-8"),
        samples={
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted((workdir / "samples").iterdir())
        },
    )


@dataclasses.dataclass(frozen=True)
class Differences:
    """How two runs differ.

    Attributes:
      arrays: arrays whose bits differ, or which only one run has.
      rows: rows of metrics that differ, likewise.
      other: names of what else differs.
    """

    arrays: int = 0
    rows: int = 0
    other: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """All differences together."""
        return self.arrays + self.rows + len(self.other)

    def __bool__(self) -> bool:
        """Whether there are any."""
        return self.count > 0

    def __str__(self) -> str:
        parts = [f"{self.arrays} arrays", f"{self.rows} rows of metrics", *self.other]
        return ", ".join(parts)


def differences(remains: Remains, unbroken: Remains) -> Differences:
    """What differs between a run that was hurt and one that was not."""
    return Differences(
        arrays=_differing(remains.arrays, unbroken.arrays),
        rows=_differing(dict(enumerate(remains.rows)), dict(enumerate(unbroken.rows))),
        other=tuple(
            name for name in ("position", "samples") if vars(remains)[name] != vars(unbroken)[name]
        ),
    )


def _differing(left: Mapping, right: Mapping) -> int:
    """Keys whose values differ, or which one of both lacks."""
    return sum(left.get(key) != right.get(key) for key in left.keys() | right.keys())


def saved_steps(workdir: Path) -> list[int]:
    """Steps whose folders have their final names, ascending.

    Read off the disk and not by corl_jax, which is what is tested.
    """
    folder = workdir / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdigit())


def steps_in_writing(workdir: Path) -> list[int]:
    """Steps that are being saved, or were when the run ended."""
    folder = workdir / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(
        int(name.partition(".")[0]) for name in names if name[0].isdigit() and "." in name
    )


def metric_lines(workdir: Path) -> list[bytes]:
    """Whole lines of ``metrics.jsonl``, with the columns that no two runs have in common."""
    path = workdir / "metrics.jsonl"
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def kept_steps(before: list[bytes], after: list[bytes]) -> int:
    """How many steps a resumed run did not do again: rows that it left as they were.

    A step that is done again takes another time, which is in its row.
    """
    kept = 0
    for old, new in zip(before, after, strict=False):
        if old != new:
            break
        kept += 1
    return kept
