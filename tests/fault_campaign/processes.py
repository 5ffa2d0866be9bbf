"""The processes of one run: starting them, sending them signals, and how each of them ended."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

LIMIT = 900.0
"""Seconds after which a process counts as hanging, also on a busy machine."""

POLL = 0.002
"""Seconds between two looks at a run."""

ERROR_CODE = 2
"""Exit code of a program that ended with one line of error, as the head of ``main.py`` says."""

TRACES = re.compile(
    r"Traceback \(most recent call last\)|Fatal Python error|stack trace|Exception ignored in"
    r"|terminate called|Segmentation fault|core dumped",
    re.IGNORECASE,
)
"""What a program prints that fell over instead of ending."""


class Violation(Exception):
    """Something came out of a hurt run that must not; the message says what, on one line."""


@dataclasses.dataclass(frozen=True)
class Ending:
    """How a process ended.

    Attributes:
      code: exit code; minus the number of the signal that ended it.
      stderr: all that it wrote there.
    """

    code: int
    stderr: str

    @property
    def lines(self) -> list[str]:
        """Lines on stderr; a progress bar that was drawn again counts as a new one."""
        return [line.strip() for line in re.split(r"[\r\n]+", self.stderr) if line.strip()]

    @property
    def error_lines(self) -> list[str]:
        """Lines that name an error."""
        return [line for line in self.lines if line.startswith("error: ")]

    def __str__(self) -> str:
        """The outcome on one line."""
        if self.code < 0:
            return f"ended by {signal.Signals(-self.code).name}"
        last = next(iter(self.error_lines or self.lines[-1:]), "")
        return f"exit code {self.code}: {last}" if self.code else "exit code 0"

    def check_no_trace(self) -> None:
        """Raises Violation where the program printed a traceback, of Python or of C++."""
        if trace := TRACES.search(self.stderr):
            raise Violation(f"{trace.group(0)!r} on stderr ({self}); last: {self.lines[-1]}")

    def check_success(self) -> None:
        """Raises Violation unless the run is done."""
        self.check_no_trace()
        if self.code:
            raise Violation(f"the run must end with exit code 0; got {self}")

    def check_refusal(self, *words: str) -> None:
        """Raises Violation unless one line names the error, with all ``words`` in it."""
        self.check_no_trace()
        errors = self.error_lines
        if self.code != ERROR_CODE or len(errors) != 1 or self.lines[-1] != errors[0]:
            raise Violation(
                f"one line of error and exit code {ERROR_CODE} must end the run; got {self}, "
                f"{len(errors)} lines of error"
            )
        if missing := [word for word in words if word not in errors[0]]:
            raise Violation(f"the error must name {', '.join(missing)}; got {errors[0]}")


class Run:
    """All processes of one run.

    Args:
      commands: of each process.
      environments: of each process.
      folder: current folder of all of them.
      stem: their stderr goes to files of this name and ``.0``, ``.1``, ...
    """

    def __init__(
        self,
        commands: Sequence[Sequence[str]],
        environments: Sequence[Mapping[str, str]],
        folder: Path,
        stem: Path,
    ):
        self._files = [stem.with_name(f"{stem.name}.{i}") for i in range(len(commands))]
        self.processes: list[subprocess.Popen[bytes]] = []
        for command, environment, file in zip(commands, environments, self._files, strict=True):
            with file.open("wb") as stderr:
                # A session of its own, so that helpers of the process get its signals too.
                process = subprocess.Popen(
                    command,
                    env=environment,
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    start_new_session=True,
                )
            self.processes.append(process)

    @property
    def is_over(self) -> bool:
        """Whether every process has ended."""
        return all(process.poll() is not None for process in self.processes)

    def send(self, number: signal.Signals, process: int | None = None) -> None:
        """Sends a signal to one process, or to all of them."""
        chosen = self.processes if process is None else [self.processes[process]]
        for target in chosen:
            if target.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(target.pid, number)

    def wait_until(self, is_reached: Callable[[], bool], limit: float = LIMIT) -> bool:
        """Waits until a condition is true; False where the run ended before.

        Raises:
          Violation: neither happened in ``limit`` seconds.
        """
        end = time.monotonic() + limit
        while time.monotonic() < end:
            if is_reached():
                return True
            if self.is_over:
                return is_reached()
            time.sleep(POLL)
        self.send(signal.SIGKILL)
        raise Violation(f"the run did nothing for {limit:.0f} s and was killed")

    def end(self, limit: float = LIMIT) -> list[Ending]:
        """Waits for all processes; how each of them ended.

        Raises:
          Violation: one is still running after ``limit`` seconds; all are killed then.
        """
        end = time.monotonic() + limit
        try:
            for process in self.processes:
                process.wait(max(end - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            last = [line for file in self._files for line in file.read_text("utf-8").split("\n")]
            raise Violation(
                f"the run did not end within {limit:.0f} s and was killed; last: {last[-1:]}"
            ) from None
        return [
            Ending(process.returncode, file.read_text("utf-8", "replace"))
            for process, file in zip(self.processes, self._files, strict=True)
        ]
