"""What the processes of a run know of each other, in the store of JAX's coordination service.

The store maps texts to texts. Process 0 runs it, and it goes with that process.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

import jax

ALIVE, FAILED, GONE, LEFT = (f"corl_jax/{name}/" for name in ("alive", "failed", "gone", "left"))
"""Folders of the store; each has one entry per process."""

ALIVE_SECONDS = 60.0
"""A process without a sign of life for so long has gone."""
SUSPECT_SECONDS = 10.0
"""The same, once a connection between processes has broken."""


class Store:
    """The entries of all processes, as one of them reads and writes them.

    Args:
      client: JAX's client of the coordination service. It raises JaxRuntimeError where the service
        is gone, and so does every method here unless it says something else.
      process: index of this process.
      processes: of the run.
    """

    def __init__(self, client: Any, process: int, processes: int):
        self._client, self.process, self.processes = client, process, processes
        # Index of a process to its newest sign of life, and when it was first read.
        self._signs: dict[int, tuple[str, float]] = {}

    def read(self, folder: str) -> dict[int, str]:
        """Index of a process to its entry in a folder."""
        entries = self._client.key_value_dir_get(folder)
        return {int(key.rpartition("/")[2]): text for key, text in entries}

    def write(self, folder: str, text: str, process: int | None = None) -> None:
        """Sets the entry of a process, this one by default."""
        index = self.process if process is None else process
        self._client.key_value_set(f"{folder}{index}", text, True)

    def tell(self, folder: str, text: str) -> None:
        """Sets this process's entry; does nothing where the service is gone."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self.write(folder, text)

    def wait(self, seconds: float) -> None:
        """Waits, and raises at once if the service goes meanwhile."""
        try:
            self._client.blocking_key_value_get(f"{GONE}nobody", int(1000 * seconds))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise

    def have_all_others_left(self, how: str = "") -> bool:
        """Whether every other process has ended; with ``how`` in that way."""
        left = self.read(LEFT)
        gone = set() if how else set(self.read(GONE))
        others = set(range(self.processes)) - {self.process}
        return all(index in gone or (index in left and how in left[index]) for index in others)

    def report_missing(self) -> None:
        """Notes which processes give no sign of life any more; one process does so for all."""
        now, alive, left = time.monotonic(), self.read(ALIVE), self.read(LEFT)
        is_suspicious = "" in self.read(FAILED).values()
        limit = SUSPECT_SECONDS if is_suspicious else ALIVE_SECONDS
        for index in set(range(self.processes)) - left.keys():
            # One that was killed at once has never given a sign.
            sign = alive.get(index, "")
            if index not in self._signs or self._signs[index][0] != sign:
                self._signs[index] = (sign, now)
            elif now - self._signs[index][1] > limit:
                reason = f"has given no sign of life for {limit:g} s: it was killed, or its host"
                self.write(GONE, f"{reason} is gone", index)
