"""Keeps errors of Orbax's abandoned reads and writes off the terminal.

Orbax reads or writes all arrays of a checkpoint at once. Where one of them fails it raises, and the
others go on in threads: each then prints a traceback about an event loop that is closed or a
coroutine that nobody awaits, and the traceback of the error that was raised is logged once more,
beside the one line that says what is wrong.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import sys
from collections.abc import Iterator

LOGGERS = (logging.getLogger("absl"), logging.getLogger("asyncio"))
"""Where Orbax logs, and the event loops that it starts."""
NEVER_RETRIEVED = "exception was never retrieved"
"""What asyncio logs of a task, or of several that were gathered, after the class of it."""


@contextlib.contextmanager
def hidden_abandoned_tasks() -> Iterator[None]:
    """A context for a call of Orbax; what its other tasks print after an error stays hidden."""
    show = sys.unraisablehook

    def show_unless_abandoned(unraisable: sys.UnraisableHookArgs) -> None:
        loop_is_closed = str(unraisable.exc_value) == "Event loop is closed"
        if not loop_is_closed and not inspect.iscoroutine(unraisable.object):
            show(unraisable)

    sys.unraisablehook = show_unless_abandoned
    for logger in LOGGERS:
        logger.addFilter(_is_no_traceback_of_orbax)
    yield
    # Only here, since after an error the tasks are still at work.
    sys.unraisablehook = show
    for logger in LOGGERS:
        logger.removeFilter(_is_no_traceback_of_orbax)


def _is_no_traceback_of_orbax(record: logging.LogRecord) -> bool:
    """Whether a line of the log is anything but the traceback of an error in Orbax."""
    is_of_task = NEVER_RETRIEVED in record.getMessage()
    return not (record.exc_info and ("orbax" in record.pathname or is_of_task))
