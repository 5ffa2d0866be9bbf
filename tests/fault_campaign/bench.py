"""Starts small runs, and knows what an unbroken run of each shape leaves."""

from __future__ import annotations

import dataclasses
import shutil
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from fault_campaign.inputs import ROOT, Inputs
from fault_campaign.processes import Run
from fault_campaign.remains import Remains, metric_lines, read_remains
from fault_campaign.small_run import STEPS

CONFIG = Path(__file__).with_name("small_run.py")
PROGRAM = ("-m", "corl_jax.main")


@dataclasses.dataclass(frozen=True)
class Shape:
    """What distinguishes one small run from the others; hurt runs of a shape have one unbroken run.

    Attributes:
      name: of the shape.
      processes: on this machine, each with one device.
      starts_from_run: ``init_from`` is a work directory, not a Hugging Face folder.
      flags: beside those that all runs have.
    """

    name: str
    processes: int = 1
    starts_from_run: bool = False
    flags: tuple[str, ...] = ()


ALONE = Shape("alone")
HOSTS = Shape("hosts", processes=2)
FROM_RUN = Shape("from_run", starts_from_run=True)


@dataclasses.dataclass(frozen=True)
class Paths:
    """What one run reads and writes.

    Attributes:
      policy: ``init_from``.
      records: ``data.source``.
      workdir: of the run.
    """

    policy: Path
    records: Path
    workdir: Path


@dataclasses.dataclass(frozen=True)
class Unbroken:
    """An unbroken run.

    Attributes:
      remains: what it left.
      disk_bytes: of its work directory, in whole blocks.
      first_row_seconds: from its start to its first row of metrics.
    """

    remains: Remains
    disk_bytes: int
    first_row_seconds: float


class Bench:
    """Where runs are started.

    Attributes:
      inputs: that all runs share.
    """

    def __init__(self, inputs: Inputs, folder: Path):
        """``folder`` is for the work directories of unbroken runs."""
        folder.mkdir(parents=True)
        self.inputs, self._folder = inputs, folder
        self._unbroken: dict[Shape, Unbroken] = {}
        # Reentrant, since one shape may start from the run of another.
        self._lock = threading.RLock()

    def start(
        self,
        shape: Shape,
        paths: Paths,
        stem: Path,
        *,
        program: Sequence[str] = PROGRAM,
        prefix: Sequence[str] = (),
        flags: Sequence[str] = (),
        variables: Mapping[int, Mapping[str, str]] | None = None,
    ) -> Run:
        """Starts a run, or resumes the one in ``paths.workdir``.

        Args:
          stem: for what the processes write to stderr.
          program: arguments of Python before the flags.
          prefix: command that starts Python.
          flags: after those of the shape.
          variables: process to environment variables that it alone has.
        """
        command = [
            *prefix,
            sys.executable,
            *program,
            f"--config={CONFIG}",
            f"--config.init_from={paths.policy}",
            f"--config.data.source={paths.records}",
            f"--workdir={paths.workdir}",
            *shape.flags,
            *flags,
        ]
        processes = range(shape.processes)
        hosts = [f"--coordinator=127.0.0.1:{free_port()}", f"--processes={shape.processes}"]
        return Run(
            [
                [*command, *hosts, f"--process={i}"] if shape.processes > 1 else command
                for i in processes
            ],
            [self.inputs.environment() | dict((variables or {}).get(i, {})) for i in processes],
            ROOT,
            stem,
        )

    def unbroken(self, shape: Shape) -> Unbroken:
        """The unbroken run of a shape, which is run the first time that it is needed."""
        with self._lock:
            if shape not in self._unbroken:
                self._unbroken[shape] = self._run_unbroken(shape)
            return self._unbroken[shape]

    def _run_unbroken(self, shape: Shape) -> Unbroken:
        policy = self.inputs.policy
        if shape.starts_from_run:
            policy = self.copy_shorter_run(self._folder / f"{shape.name}_init")
        workdir = self._folder / shape.name
        start = time.monotonic()
        run = self.start(shape, Paths(policy, self.inputs.records, workdir), workdir)
        run.wait_until(lambda: bool(metric_lines(workdir)))
        first_row_seconds = time.monotonic() - start
        for ending in run.end():
            ending.check_success()
        return Unbroken(read_remains(workdir), disk_bytes(workdir), first_row_seconds)

    def copy_shorter_run(self, folder: Path) -> Path:
        """The unbroken run ``alone`` as it was before its last checkpoint."""
        self.unbroken(ALONE)
        shutil.copytree(self._folder / ALONE.name, folder)
        shutil.rmtree(folder / "checkpoints" / str(STEPS))
        return folder

    def lengthen_run(self, folder: Path) -> None:
        """Gives a copy of ``copy_shorter_run`` the last checkpoint, as if it had gone on."""
        step = Path("checkpoints") / str(STEPS)
        shutil.copytree(self._folder / ALONE.name / step, folder / step)


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def disk_bytes(folder: Path) -> int:
    """Bytes that the files and folders of ``folder`` take on a disk with blocks of 4 KiB."""
    sizes = [path.stat().st_size if path.is_file() else 1 for path in folder.rglob("*")]
    return sum(-(-size // 4096) * 4096 for size in sizes)
