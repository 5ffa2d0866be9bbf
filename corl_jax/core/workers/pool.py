"""A pool of worker processes.

The processes of ``multiprocessing`` import the main program again, and with it JAX: seconds and
hundreds of MB each. These import what the functions need that they run.
"""

from __future__ import annotations

import functools
import os
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from corl_jax.core.errors import UserError

P = ParamSpec("P")
R = TypeVar("R")


class WorkerPool:
    """Runs functions in other processes, which start as they are needed.

    A function must be importable by its name, from a module that does not import JAX; its arguments
    and its result are pickled.
    """

    def __init__(self, workers: int):
        """A pool of at most ``workers`` processes."""
        # A thread per process writes its calls and waits for their results.
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="worker")
        self._process_of_thread = threading.local()
        self._processes: list[_Process] = []
        self.close = weakref.finalize(self, _close, self._threads, self._processes)

    def submit(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Runs ``function(*args)`` in a process. The future raises what the function raises.

        Raises:
          UserError: (from the future) the process ended.
        """
        call = functools.partial(function, **kwargs) if kwargs else function
        return self._threads.submit(self._run, call, args)

    def _run(self, function: Callable[..., R], args: tuple[object, ...]) -> R:
        """Runs a function in the process of this thread."""
        process = vars(self._process_of_thread).get("process")
        if process is None or process.has_ended():
            process = self._process_of_thread.process = _Process()
            self._processes.append(process)
        return process.run(function, args)


@functools.cache
def shared_pool(workers: int) -> WorkerPool:
    """The pool of this program with ``workers`` processes."""
    return WorkerPool(workers)


class _Process:
    """One worker process."""

    def __init__(self) -> None:
        # It finds the modules that this program has found.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "corl_jax.core.workers.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )

    def run(self, function: Callable[..., R], args: tuple[object, ...]) -> R:
        """The result of one call."""
        calls, results = self._process.stdin, self._process.stdout
        assert calls is not None and results is not None
        try:
            pickle.dump((function, args), calls, pickle.HIGHEST_PROTOCOL)
            calls.flush()
            result, error = pickle.load(results)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            self._process.kill()
            raise UserError(
                "a worker process must live as long as the program; one ended with exit code "
                f"{self._process.wait()}, perhaps for lack of memory. Use fewer workers"
            ) from None
        if error is not None:
            raise error
        return result

    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def close(self) -> None:
        """Ends the process after its call."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None and not stream.closed:
                # What is still to be written is of no use to a process that has ended.
                try:
                    stream.close()
                except BrokenPipeError:
                    continue
        self._process.wait()


def _close(threads: ThreadPoolExecutor, processes: list[_Process]) -> None:
    """Ends a pool: calls that have begun are finished, others are dropped."""
    threads.shutdown(wait=True, cancel_futures=True)
    for process in processes:
        process.close()
