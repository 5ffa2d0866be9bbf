"""Holds back for a moment what libraries in C++ write to stderr.

When a process loses process 0 of its run, JAX's client prints a stack trace and aborts. Our line is
enough, so what C++ wrote just before is left out. Python writes to the terminal as before.
"""

from __future__ import annotations

import os
import select
import sys
import threading

HOLD_SECONDS = 2.0
"""How much later than usual such text appears."""
READ_BYTES = 2**16


class HeldNativeLog:
    """Takes the place of file descriptor 2 from now on, until ``release``.

    Attributes:
      terminal: a descriptor of what was stderr before.
    """

    def __init__(self) -> None:
        sys.stderr.flush()
        self.terminal = os.dup(2)
        self._reader, writer = os.pipe()
        os.dup2(writer, 2)
        os.close(writer)

        # Whatever asks for Python's stderr from here on gets the terminal itself.
        sys.stderr = os.fdopen(
            os.dup(self.terminal), "w", buffering=1, encoding="utf-8", errors="backslashreplace"
        )
        self._held = b""
        self._released = threading.Event()
        self._lock = threading.Lock()
        threading.Thread(target=self._run, name="log of C++", daemon=True).start()

    def release(self) -> None:
        """Prints what is held, and holds nothing from now on."""
        if self._released.is_set():
            return
        self._released.set()
        os.dup2(self.terminal, 2)
        self._read_all()
        self._print_held()

    def _run(self) -> None:
        while not self._released.is_set():
            if select.select([self._reader], [], [], HOLD_SECONDS)[0]:
                self._read_all()
                self._released.wait(HOLD_SECONDS)
                self._print_held()

    def _read_all(self) -> None:
        """Reads what C++ has written so far, without waiting for more."""
        with self._lock:
            while select.select([self._reader], [], [], 0)[0]:
                content = os.read(self._reader, READ_BYTES)
                if not content:
                    return
                self._held += content

    def _print_held(self) -> None:
        with self._lock:
            content, self._held = self._held, b""
            while content:
                content = content[os.write(self.terminal, content) :]
