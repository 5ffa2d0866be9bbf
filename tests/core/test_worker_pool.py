"""Worker processes: results and errors come back, a death is one line, and none stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from corl_jax.core.errors import UserError
from corl_jax.core.workers.pool import WorkerPool


@pytest.fixture
def pool():
    pool = WorkerPool(2)
    yield pool
    pool.close()


def test_results_and_errors_come_back(pool):
    big = np.arange(10**6).reshape(1000, 1000)
    results = [pool.submit(np.multiply, big, i) for i in range(6)]
    for i, result in enumerate(results):
        np.testing.assert_array_equal(result.result(), big * i)
    with pytest.raises(ZeroDivisionError):
        pool.submit(divmod, 1, 0).result()
    # What a function prints does not get between the results.
    assert pool.submit(os.system, "echo printed").result() == 0
    assert pool.submit(print, "printed").result() is None


def test_workers_are_processes_without_jax(pool):
    from corl_jax.data.images import pad_to_square

    square = pool.submit(pad_to_square, np.zeros((3, 4, 3), np.uint8), 16).result()
    assert square.shape == (16, 16, 3)
    names = pool.submit(eval, "__import__('sys').modules.keys() & {'jax', 'corl_jax'}").result()
    assert set(names) == {"corl_jax"} and "jax" in sys.modules
    assert pool.submit(os.getpid).result() != os.getpid()


def test_a_worker_that_dies_is_one_line_and_the_next_call_has_another(pool):
    with pytest.raises(UserError, match=r"ended with exit code -9.*Use fewer workers") as error:
        pool.submit(
            eval, f"__import__('os').kill(__import__('os').getpid(), {signal.SIGKILL})"
        ).result()
    assert "\n" not in str(error.value)
    assert pool.submit(divmod, 7, 2).result() == (3, 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_all_processes_of_a_job_leave_workers_alive(pool, number):
    process = pool.submit(os.getpid).result()
    os.kill(process, number)
    assert pool.submit(divmod, 7, 2).result() == (3, 1)
    assert pool.submit(os.getpid).result() == process


def test_workers_end_with_their_program():
    program = (
        "import os, time\n"
        "from corl_jax.core.workers.pool import WorkerPool\n"
        "print(WorkerPool(1).submit(os.getpid).result(), flush=True)\n"
        "time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    process = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert_ends(process)


def test_workers_end_with_their_pool():
    pool = WorkerPool(1)
    process = pool.submit(os.getpid).result()
    assert os.path.exists(f"/proc/{process}")
    pool.close()
    assert_ends(process)


def assert_ends(process):
    """Asserts that a process ends by itself within some seconds."""
    end = time.monotonic() + 10
    while is_running(process) and time.monotonic() < end:
        time.sleep(0.01)
    assert not is_running(process)


def is_running(process):
    """Whether a process is there and no zombie."""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
