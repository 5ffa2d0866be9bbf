"""When the devices finish what was dispatched to them, without anybody waiting for it.

In: arrays that a program returns at once. Out: the seconds that the devices took. A thread waits for
the arrays in the order in which they were dispatched, which is the order in which devices work; so
the thread that trains never waits for a time.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from typing import Any

import jax


class DeviceTime:
    """Seconds of one program, once it has run."""

    def __init__(self, begin: float, arrays: Any):
        self._begin, self._arrays = begin, arrays
        self._seconds = 0.0
        self._has_ended = threading.Event()

    def seconds(self) -> float:
        """Waits for the program, which at the places where it is read has run already."""
        self._has_ended.wait()
        return self._seconds

    def measure(self, free_at: float) -> float:
        """Waits for the arrays; the time at which they were there.

        Args:
          free_at: when the devices were done with the program before.
        """
        # Whoever reads the arrays gets the error of a program that failed.
        with contextlib.suppress(Exception):
            jax.block_until_ready(self._arrays)
        end = time.perf_counter()
        self._arrays = None
        self._seconds = max(0.0, end - max(self._begin, free_at))
        self._has_ended.set()
        return end


class DeviceClock:
    """A thread that waits for arrays, one program after the other."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[DeviceTime] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def time(self, begin: float, arrays: Any) -> DeviceTime:
        """The time of a program that was dispatched just now.

        Args:
          begin: ``time.perf_counter()`` before it was called, so that compiling it counts.
          arrays: some of what it returned, none of which is ever donated.
        """
        measured = DeviceTime(begin, arrays)
        self._waiting.put(measured)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="device clock", daemon=True)
            self._thread.start()
        return measured

    def _run(self) -> None:
        free_at = 0.0
        while True:
            free_at = self._waiting.get().measure(free_at)


DEVICE_CLOCK = DeviceClock()
"""Of this process: all programs that are timed have one order."""
