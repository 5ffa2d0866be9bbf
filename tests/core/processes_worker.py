"""One of two processes that agree on things: ``python processes_worker.py COORDINATOR PROCESS``.

At the end the second one is killed, and the first waits for it.
"""

from __future__ import annotations

import os
import signal
import sys

from corl_jax.core.errors import SharedError, StopRequested, UserError
from corl_jax.core.processes import store
from corl_jax.core.processes.agreement import (
    any_process,
    assert_same_on_all,
    check_failures,
    on_all_processes,
    on_first_process,
    texts_of_processes,
)
from corl_jax.core.processes.connection import DistributedConfig, connect_processes
from corl_jax.core.processes.ending import run_program


def raised_by(action):
    """The error of ``action``."""
    try:
        action()
    except Exception as error:
        return error
    raise AssertionError("no error")


def main(coordinator: str, process_text: str) -> int:
    process = int(process_text)
    store.ALIVE_SECONDS = 3.0
    connect_processes(DistributedConfig(coordinator, 2, process))

    def fail_on(index: int, error: Exception) -> None:
        if process == index:
            raise error

    # More exchanges than there are slots for their texts.
    for i in range(5):
        assert texts_of_processes(f"{process} {i}") == [f"0 {i}", f"1 {i}"]
        assert any_process(process == i % 2) and not any_process(False)
    assert on_all_processes(lambda: process) == process
    assert on_first_process(lambda: "first") == (None if process else "first")
    assert_same_on_all("word", "equal")

    # What one process raises all raise, and it does not matter which call the others make.
    error = raised_by(lambda: on_all_processes(lambda: fail_on(1, UserError("x must be y"))))
    assert isinstance(error, SharedError)
    assert str(error) == ("x must be y" if process else "process 1 of 2 stopped: x must be y")
    error = raised_by(lambda: on_first_process(lambda: fail_on(0, UserError("no space"))))
    assert str(error) == ("process 0 of 2 stopped: no space" if process else "no space")
    error = raised_by(lambda: on_all_processes(lambda: fail_on(0, StopRequested())))
    assert isinstance(error, StopRequested)
    error = raised_by(lambda: assert_same_on_all("word", f"word {process}"))
    assert "process 1 of 2 has another word than process 0" in str(error)

    def fail_within() -> None:
        fail_on(0, UserError("before the inner call"))
        check_failures()

    error = raised_by(lambda: on_all_processes(fail_within))
    assert str(error).endswith("before the inner call") and isinstance(error, SharedError)

    print("agreed", file=sys.stderr, flush=True)
    if process == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    check_failures()
    return 0


if __name__ == "__main__":
    sys.exit(run_program(lambda: main(*sys.argv[1:])))
