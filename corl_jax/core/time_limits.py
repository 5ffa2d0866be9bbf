"""Time limits of calls into code that may never return, such as a reward of the user.

The call stays in the main thread. When its time is up, an alarm raises an exception inside it, which
interrupts Python code and waiting (for a network, a lock, a subprocess). Code of a C extension that
does not come back to Python cannot be interrupted: then the process is ended.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from corl_jax.core.errors import StopRequested

STOP_SECONDS = 10.0
"""How long a call may still run after a signal to stop. Clouds kill 30 seconds after theirs."""

AGAIN_SECONDS = 5.0
"""An alarm that the called code has swallowed is raised again after this time."""

STUCK_SECONDS = 15.0
"""A call that has not ended so long after its alarm is in code that no alarm interrupts."""


class TimeIsUp(Exception):
    """A call took longer than its limit."""


class _Alarm(BaseException):
    """Leaves the called code; no Exception, so that ``except Exception`` there lets it pass."""


@dataclasses.dataclass
class _Call:
    """A call that runs under a limit.

    Attributes:
      deadline: in monotonic seconds, or None.
      stop_deadline: the same once a signal to stop has come.
      returned: set as soon as the called code is left.
      is_waiting: while its time does not count, see ``unlimited``.
    """

    deadline: float | None
    stop_deadline: float | None = None
    returned: threading.Event = dataclasses.field(default_factory=threading.Event)
    is_waiting: bool = False


# The calls that run now in the main thread, the innermost last.
_calls: list[_Call] = []


@contextlib.contextmanager
def time_limit(seconds: float, when_stuck: Callable[[], None]) -> Iterator[None]:
    """Ends the block after ``seconds``, or soon after a signal to stop (``stop_running_call``).

    Python handles signals in the main thread alone; in another thread the block has no limit.

    Args:
      seconds: 0 for no limit but signals.
      when_stuck: called in a thread of its own where the block cannot be interrupted; it should end
        the process.

    Raises:
      TimeIsUp: the block took too long.
      StopRequested: a signal to stop came, and the block did not end soon.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    call = _Call(time.monotonic() + seconds if seconds else None)
    if seconds:
        guard = (call, when_stuck)
        threading.Thread(target=_end_when_stuck, args=guard, name="time limit", daemon=True).start()
    old_handler = signal.signal(signal.SIGALRM, _raise_alarm) or signal.SIG_DFL
    _calls.append(call)

    try:
        _set_alarm()
        yield
    except _Alarm:
        is_stop = call.deadline is None or time.monotonic() < call.deadline
        raise (StopRequested if is_stop else TimeIsUp) from None
    finally:
        # First of all, so that no alarm comes from here on.
        call.returned.set()
        _calls.remove(call)
        signal.signal(signal.SIGALRM, old_handler)
        _set_alarm()


def stop_running_call() -> None:
    """Ends the call that runs under a limit, if one does and does not return soon by itself."""
    for call in _calls:
        call.stop_deadline = call.stop_deadline or time.monotonic() + STOP_SECONDS
    if _calls:
        _set_alarm()


@contextlib.contextmanager
def unlimited() -> Iterator[None]:
    """A block whose time does not count, such as waiting for another process."""
    started = time.monotonic()
    call = _calls[-1] if _calls else None
    if call is None:
        yield
        return

    call.is_waiting = True
    _set_alarm()
    try:
        yield
    finally:
        if call.deadline is not None:
            call.deadline += time.monotonic() - started
        call.is_waiting = False
        _set_alarm()


def _set_alarm() -> None:
    """Sets the alarm for the innermost call, or none."""
    call = _calls[-1] if _calls else None
    deadlines = [] if call is None or call.is_waiting else [call.deadline, call.stop_deadline]
    times = [deadline for deadline in deadlines if deadline is not None]
    # 0 would mean no alarm.
    seconds = max(min(times) - time.monotonic(), 1e-3) if times else 0.0
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_SECONDS if times else 0.0)


def _raise_alarm(number: int, frame: FrameType | None) -> None:
    if _calls and not _calls[-1].returned.is_set():
        raise _Alarm


def _end_when_stuck(call: _Call, when_stuck: Callable[[], None]) -> None:
    """Calls ``when_stuck`` once the alarm of ``call`` has been without effect for long."""
    assert call.deadline is not None
    while not call.returned.wait(1.0):
        if not call.is_waiting and time.monotonic() > call.deadline + STUCK_SECONDS:
            when_stuck()
            return
