"""Time limits of calls: what is interrupted, by what, and that nothing is left behind."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from corl_jax.core import time_limits
from corl_jax.core.errors import StopRequested
from corl_jax.core.time_limits import TimeIsUp, stop_running_call, time_limit, unlimited


def fail():
    raise AssertionError("the block was said to be stuck")


def hang():
    while True:
        time.sleep(0.01)


def hang_on(errors):
    """A loop that goes on whatever is raised inside."""
    while True:
        try:
            hang()
        except errors:
            continue


def test_a_block_that_hangs_ends_when_its_time_is_up():
    started = time.monotonic()
    with pytest.raises(TimeIsUp), time_limit(0.1, fail):
        hang()
    with pytest.raises(TimeIsUp), time_limit(0.1, fail):
        hang_on(Exception)
    with pytest.raises(TimeIsUp), time_limit(0.1, fail):
        threading.Lock().acquire() and threading.Event().wait()
    assert time.monotonic() - started < 2


def test_an_alarm_that_is_swallowed_comes_again(monkeypatch):
    monkeypatch.setattr(time_limits, "AGAIN_SECONDS", 0.1)
    swallowed = []
    with pytest.raises(TimeIsUp), time_limit(0.1, fail):
        try:
            hang()
        except BaseException as error:
            swallowed.append(error)
        hang()
    assert len(swallowed) == 1


def test_a_block_that_returns_leaves_no_alarm():
    handler = signal.getsignal(signal.SIGALRM)
    with time_limit(0.05, fail):
        value = 1
    assert value and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is handler
    time.sleep(0.1)

    # An error of the block passes, and 0 is no limit.
    with pytest.raises(KeyError), time_limit(0.05, fail):
        raise KeyError
    with time_limit(0, fail):
        time.sleep(0.1)


@pytest.mark.parametrize("seconds", [0, 60])
def test_a_signal_to_stop_ends_a_block_that_does_not_end_soon(monkeypatch, seconds):
    monkeypatch.setattr(time_limits, "STOP_SECONDS", 0.1)
    old_handler = signal.signal(signal.SIGTERM, lambda number, frame: stop_running_call())
    try:
        with pytest.raises(StopRequested), time_limit(seconds, fail):
            os.kill(os.getpid(), signal.SIGTERM)
            hang()
        with time_limit(seconds, fail):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, old_handler)
    stop_running_call()
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_waiting_for_other_processes_does_not_count():
    with time_limit(0.2, fail):
        with unlimited():
            time.sleep(0.3)
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0.1
    with pytest.raises(TimeIsUp), time_limit(0.1, fail):
        with unlimited():
            time.sleep(0.2)
        hang()


def test_a_block_that_no_alarm_interrupts_is_noticed(monkeypatch):
    monkeypatch.setattr(time_limits, "STUCK_SECONDS", 0.1)
    stuck = threading.Event()
    # As in code of a C extension, the handler of the alarm never runs.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    try:
        with pytest.raises(TimeIsUp), time_limit(0.1, stuck.set):
            assert stuck.wait(5)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
            hang()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})


def test_in_another_thread_there_is_no_limit():
    values = []

    def work():
        with time_limit(0.05, fail):
            time.sleep(0.1)
            values.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert values == [1]
