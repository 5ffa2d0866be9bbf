"""Where a run comes from: ``run.json``, with one entry for every time that its command was started.

An entry has the command, the time, the machine, the versions and the commit of the code, how far the
run was and came, and the seconds of it. It is written when the run starts and brought up to date
with every checkpoint, so that a run that is killed has one, too. It names no user, host or folder of
the machine.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import jax

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.files import write_json
from corl_jax.core.private_text import reduce_private
from corl_jax.core.provenance import commit, machine, versions

FILE = "run.json"
ADVICE = "repair or remove the file"


@dataclasses.dataclass(frozen=True)
class Start:
    """One start of a run.

    Attributes:
      command: without the folders of paths.
      date: UTC, such as ``2026-11-27 12:30 UTC``.
      machine: operating system, processor and devices.
      processes: of the run.
      versions: by library.
      commit: of the code, with ``, changed`` where files differ from it; "" if it is not known.
      first_step, last_step: steps that were done when it began, and when it was last heard of.
      seconds: from one to the other, with evaluations.
    """

    command: str
    date: str
    machine: str
    processes: int
    versions: Mapping[str, str]
    commit: str
    first_step: int
    last_step: int
    seconds: float


class RunHistory:
    """The entries of a work directory, of which the newest is this start's.

    Args:
      folder: work directory.
      first_step: steps that are done.
    """

    def __init__(self, folder: Path, first_step: int):
        self._path, self._begin = folder / FILE, time.monotonic()
        self._earlier = read_history(folder)
        self._start = Start(
            command=reduce_private(" ".join(["python -m corl_jax.main", *sys.argv[1:]])),
            date=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
            machine=machine(),
            processes=jax.process_count(),
            versions=versions(),
            commit=commit() or "",
            first_step=first_step,
            last_step=first_step,
            seconds=0.0,
        )
        self.update(first_step)

    @property
    def seconds(self) -> float:
        """Since this start."""
        return time.monotonic() - self._begin

    def update(self, last_step: int) -> None:
        """Writes how far the run has come.

        Raises:
          UserError: the file cannot be written.
        """
        self._start = dataclasses.replace(
            self._start, last_step=last_step, seconds=round(self.seconds, 1)
        )
        starts = [*self._earlier, self._start]
        write_json(self._path, {"starts": [dataclasses.asdict(start) for start in starts]})


def read_history(folder: Path) -> tuple[Start, ...]:
    """The starts of a run, the first one first; none for a run of an older version.

    Raises:
      UserError: the file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return ()
    return tuple(
        _read_start(entry) for entry in JsonObject.read(path, advice=ADVICE).blocks("starts")
    )


def _read_start(entry: JsonObject) -> Start:
    library_versions = entry.block("versions")
    return Start(
        command=entry.text("command"),
        date=entry.text("date"),
        machine=entry.text("machine"),
        processes=entry.integer("processes", low=1),
        versions={name: library_versions.text(name) for name in library_versions.entries},
        commit=entry.text("commit"),
        first_step=entry.integer("first_step"),
        last_step=entry.integer("last_step"),
        seconds=entry.number("seconds", low=0),
    )
