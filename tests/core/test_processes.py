"""Processes of a run agree, notice each other's failures, and do not wait for one that is gone."""

from __future__ import annotations

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import pytest

from corl_jax.core.errors import StopRequested, UserError
from corl_jax.core.processes import agreement, store, watch
from corl_jax.core.processes.store import Store
from corl_jax.core.processes.watch import Watch

WORKER = pathlib.Path(__file__).with_name("processes_worker.py")


def test_two_processes_agree_and_one_that_is_killed_ends_the_other():
    with socket.socket() as free_port:
        free_port.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free_port.getsockname()[1]}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(WORKER.parents[2])}
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), coordinator, str(process)],
            env=environment, text=True, stderr=subprocess.PIPE,
        )
        for process in (0, 1)
    ]  # fmt: skip
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert "agreed" in errors[0] and processes[1].returncode == -signal.SIGKILL, errors
    line = "error: process 1 of 2 has given no sign of life for 3 s: it was killed, or its host"
    assert processes[0].returncode == 2 and line in errors[0], errors
    assert "Traceback" not in errors[0] and "stack trace" not in errors[0], errors


def test_what_c_writes_is_held_back_and_lost_where_the_process_ends_at_once():
    program = """
import os, sys, time
from corl_jax.core.processes.native_log import HOLD_SECONDS, HeldNativeLog

log = HeldNativeLog()
os.write(2, b"c++ 1\\n")
print("python 1", file=sys.stderr)
time.sleep(2 * HOLD_SECONDS)
os.write(2, b"c++ 2\\n")
print("python 2", file=sys.stderr)
if sys.argv[1] == "release":
    log.release()
    log.release()
    os.write(2, b"c++ 3\\n")
os._exit(3)
"""
    lines = ["python 1", "c++ 1", "python 2"]
    for how, printed in (("end", lines), ("release", [*lines, "c++ 2", "c++ 3"])):
        command = [sys.executable, "-c", program, how]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (result.returncode, result.stderr.split("\n")) == (3, [*printed, ""])


def test_alone_everything_returns_at_once():
    assert agreement.any_process(True) and not agreement.any_process(False)
    assert agreement.texts_of_processes("text") == ["text"]
    assert agreement.on_all_processes(lambda: 1) == agreement.on_first_process(lambda: 1) == 1
    agreement.check_failures()
    agreement.assert_same_on_all("word", "text")
    for error in (UserError("x"), StopRequested()):
        with pytest.raises(type(error)):
            agreement.check_failures(error)


class Client:
    """JAX's client of the coordination service, for all processes."""

    def __init__(self):
        self.values, self.is_reachable = {}, True

    def key_value_set(self, key, value, allow_overwrite):
        assert allow_overwrite
        if not self.is_reachable:
            raise jax.errors.JaxRuntimeError("UNAVAILABLE")
        self.values[key] = value

    def blocking_key_value_get(self, key, timeout_in_ms):
        raise jax.errors.JaxRuntimeError(
            "DEADLINE_EXCEEDED" if self.is_reachable else "UNAVAILABLE"
        )

    def key_value_dir_get(self, folder):
        if not self.is_reachable:
            raise jax.errors.JaxRuntimeError("UNAVAILABLE")
        return [(key, value) for key, value in self.values.items() if key.startswith(folder)]


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still; an entry of seconds moves it."""
    times = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: sum(times))
    return times


@pytest.fixture
def watches(clock):
    """Three watches over the same entries, which are polled by hand."""
    client = Client()
    return [Watch(Store(client, process, 3)) for process in range(3)]


def poll(watches, *indices):
    """What the watches of some processes say, each asked twice."""
    for index in indices:
        watches[index].poll()
    return [watches[index].poll() for index in indices]


def test_the_error_of_a_process_ends_those_that_wait_for_it(watches, clock):
    assert poll(watches, 0, 1, 2) == ["", "", ""]
    watches[1].report_failure("x must be y")
    assert poll(watches, 0, 1, 2) == ["", "", ""]
    clock.append(watch.GRACE_SECONDS)
    line = "process 1 of 3 stopped: x must be y"
    assert poll(watches, 0, 1, 2) == [line, "x must be y", line]

    # Main threads that know of it end by themselves.
    watches[2].report_agreement()
    assert poll(watches, 0, 2) == [line, ""]


@pytest.mark.parametrize("suspicious", [False, True])
def test_a_process_without_a_sign_of_life_has_gone(watches, clock, suspicious):
    poll(watches, 1, 2, 0)
    seconds = store.SUSPECT_SECONDS if suspicious else store.ALIVE_SECONDS
    if suspicious:
        watches[2].suspect()
    clock.append(seconds)
    assert poll(watches, 0, 2) == ["", ""]
    clock.append(1.0)
    watches[2].poll()
    line = f"process 1 of 3 has given no sign of life for {seconds:g} s: it was killed, or its host"
    assert all(said.startswith(line) for said in poll(watches, 0, 2))


def test_a_process_that_has_done_its_work_is_not_missed(watches, clock):
    poll(watches, 1, 2, 0)
    watches[1].finish()
    clock.append(10 * store.ALIVE_SECONDS)
    watches[2].poll()
    assert poll(watches, 0, 2) == ["", ""]


def test_whoever_is_last_may_end_as_usual(watches, capsys):
    watches[1].finish()
    watches[2].finish()
    watches[0].end("x must be y", 2)
    assert capsys.readouterr().err == "error: x must be y\n"


@pytest.mark.parametrize("process", [0, 1])
def test_a_process_that_failed_waits_for_nobody_but_the_first_for_all(
    watches, monkeypatch, process
):
    codes, waits = [], []
    monkeypatch.setattr(watch.os, "_exit", codes.append)
    monkeypatch.setattr(time, "sleep", lambda seconds: waits.append(1) or watches[2].finish())
    watches[1]._store.write(store.LEFT, "failed")
    watches[process].end("x must be y", 2)
    assert codes == [2] and len(waits) == (process == 0)


def test_a_coordinator_that_is_gone_ends_the_others(watches, monkeypatch, capfd):
    codes = []

    def leave(code):
        codes.append(code)
        raise SystemExit

    monkeypatch.setattr(watch.os, "_exit", leave)
    watches[1]._store._client.is_reachable = False
    watches[1].report_failure("nobody reads this")
    with pytest.raises(SystemExit):
        watches[1]._run()
    assert codes == [2] and "process 0 of 3 cannot be reached any more" in capfd.readouterr().err
