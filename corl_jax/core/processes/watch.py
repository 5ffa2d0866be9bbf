"""Processes of a run watch each other, so that none waits for one that has failed or was killed.

A thread of every process writes a sign of life and reads which processes have failed. It ends its
process with one line where the main thread cannot: it may wait for an array that never comes.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import socket
import sys
import threading
import time
from typing import Any

import jax

# JAX has no public name for its client; Orbax reads it from here, too.
from jax._src.distributed import global_state

from corl_jax.core.processes.ending import set_other_processes
from corl_jax.core.processes.native_log import HeldNativeLog
from corl_jax.core.processes.store import ALIVE, FAILED, GONE, LEFT, Store

POLL_SECONDS = 1.0
"""Time between two looks at the store."""
GRACE_SECONDS = 10.0
"""Time in which the main thread may come to the error of another process by itself."""
LEAVE_SECONDS = 20.0
"""How long process 0 waits for the others before it ends and takes the store with it."""

NEXT_STEP = "Start the same command on every host to go on from the last checkpoint"


class Watch:
    """What this process does about the failures of others; ``start`` begins to look."""

    def __init__(self, store: Store):
        self._store = store
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch of processes", daemon=True)
        self._is_ending = threading.Lock()
        self._is_agreed = False
        self._polls = 0
        self._failed_at: float | None = None

    def start(self) -> None:
        """Looks at the store from now on, until the process ends."""
        self._store.write(ALIVE, "0")
        self._thread.start()
        # Runs before JAX takes its leave of the other processes.
        atexit.register(self.finish)

    def report_failure(self, message: str) -> None:
        """Tells the others that this process has failed and will not go on."""
        self._store.tell(FAILED, f"stopped: {message}")

    def report_agreement(self) -> None:
        """All main threads know of the failure and end in their own time."""
        self._is_agreed = True

    def suspect(self) -> None:
        """A connection broke: whoever gives no sign of life soon has gone."""
        self._store.tell(FAILED, "")

    def finish(self) -> None:
        """Tells the others that this process has done its work."""
        if not self._stopped.is_set():
            self._stopped.set()
            self._store.tell(LEFT, "finished")
        # Python must not end while the thread is within a call of JAX's client.
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def end(self, line: str, code: int) -> None:
        """Prints ``line`` and ends this process, in bounded time whatever the others do.

        Returns only if every other process has done its work: then JAX can take its leave as usual.
        """
        # Whichever thread comes second waits for the end.
        if not self._is_ending.acquire(blocking=False):
            threading.Event().wait()
        self._stopped.set()
        if line:
            print(f"error: {line}", file=sys.stderr, flush=True)

        try:
            if self._store.have_all_others_left("finished"):
                self._store.write(LEFT, "finished")
                return
            # The store must stay until the others have ended, too.
            self._store.write(LEFT, "failed")
            deadline = time.monotonic() + LEAVE_SECONDS
            while self._store.process == 0 and time.monotonic() < deadline:
                if self._store.have_all_others_left():
                    break
                time.sleep(0.1)
        except jax.errors.JaxRuntimeError:
            pass  # process 0 has ended already, so there is nobody to tell
        os._exit(code)

    def end_without_coordinator(self) -> None:
        """Ends this process with a line at once: JAX's client is about to abort it with a trace."""
        if self._is_ending.acquire(blocking=False):
            line = (
                f"\nerror: process 0 of {self._store.processes} cannot be reached any more: it was "
                f"killed, or its host is gone. {NEXT_STEP}\n"
            )
            os.write(sys.stderr.fileno(), line.encode())
        os._exit(2)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._store.wait(POLL_SECONDS)
                line = self.poll()
            except jax.errors.JaxRuntimeError:
                if not self._stopped.is_set():
                    self.end_without_coordinator()
                return
            if line and not self._stopped.is_set():
                # The main thread may have left a progress bar in the last line.
                print(file=sys.stderr)
                self.end(line, 2)
                os._exit(2)

    def poll(self) -> str:
        """Gives a sign of life, and returns the reason to end now, if there is one."""
        store = self._store
        self._polls += 1
        store.write(ALIVE, str(self._polls))
        if store.process == 0:
            store.report_missing()

        # Nobody can agree with a process that has gone.
        if gone := store.read(GONE):
            index, reason = min(gone.items())
            return f"process {index} of {store.processes} {reason}. {NEXT_STEP}"

        messages = {index: text for index, text in store.read(FAILED).items() if text}
        if not messages or self._is_agreed:
            return ""
        self._failed_at = self._failed_at or time.monotonic()
        if time.monotonic() - self._failed_at < GRACE_SECONDS:
            return ""
        index, reason = min(messages.items())
        if index == store.process:
            return reason.removeprefix("stopped: ")
        return f"process {index} of {store.processes} {reason}"


_watch: Watch | None = None
# ctypes keeps no reference to a handler that C calls.
_abort_handler: Any = None


def start_watch() -> None:
    """Watches the other processes of the run from now on, if there are any."""
    global _watch
    process, processes = global_state.process_id, global_state.num_processes
    if processes > 1:
        _watch = Watch(Store(global_state.client, process, processes))
        _watch.start()
        set_other_processes(_watch)
        if process > 0:
            _explain_abort(_watch, HeldNativeLog())


def current_watch() -> Watch | None:
    """The watch over the other processes, or None for a process that is alone."""
    return _watch


def _explain_abort(watch: Watch, native_log: HeldNativeLog) -> None:
    """Prints a line where JAX's client aborts the process because it has lost process 0.

    The client does so in a thread of C++, at the moment when the connection closes.
    """
    global _abort_handler
    host, _, port = str(global_state.coordinator_address).rpartition(":")

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def handle(number: int) -> None:
        # Something else may have aborted: then the process ends as it would have.
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
        except OSError:
            watch.end_without_coordinator()
        native_log.release()

    atexit.register(native_log.release)
    _abort_handler = handle
    ctypes.CDLL(None).signal(signal.SIGABRT, handle)
