"""How a program of this package ends: its exit code, and one line for an error that a user can mend.

On several processes the others learn of it, so that all end within seconds. This file imports no
library, so that help is quick.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import NoReturn, Protocol

from corl_jax.core.errors import UserError, describe_error

BUG, BAD_INPUT, INTERRUPTED, CLOSED_PIPE = 1, 2, 130, 141
"""Exit codes; the last two are what shells expect after Ctrl-C and after a closed pipe."""

VERDICT_SECONDS = 15.0
"""In this time process 0 finds out whether another process has gone."""


class OtherProcesses(Protocol):
    """The other processes of a run on several hosts, see ``core.processes.watch``."""

    def report_failure(self, message: str) -> None:
        """Tells them that this process has failed."""

    def suspect(self) -> None:
        """Asks process 0 to find out whether one of them has gone."""

    def end(self, line: str, code: int) -> None:
        """Prints an error line and ends this process; returns if they have all done their work."""


_others: OtherProcesses | None = None


def set_other_processes(others: OtherProcesses) -> None:
    """From now on ``others`` learn how this program ends."""
    global _others
    _others = others


def run_program(action: Callable[[], int]) -> int:
    """Runs a program and returns its exit code.

    UserError is one line on stderr. A reader that closes its end of a pipe (``| head``) ends the
    program quietly. Other errors are bugs, with a traceback.
    """
    try:
        try:
            return action()
        finally:
            # Here, since at its own end Python would print about a closed pipe.
            sys.stdout.flush()
    except UserError as error:
        if _others is not None and _comes_from_library(error):
            _await_verdict(_others)
        return _end_with_line(str(error), BAD_INPUT)
    except KeyboardInterrupt:
        return _end_with_line("interrupted", INTERRUPTED)
    except BrokenPipeError:
        _close_outputs()
        if _others is not None:
            _others.report_failure("nobody reads its output any more")
            _others.end("", CLOSED_PIPE)
        return CLOSED_PIPE
    except SystemExit as error:
        if _others is not None and error.code not in (0, None):
            _others.report_failure(f"exit code {error.code}")
            _others.end("", BUG)
        raise
    except Exception as error:
        if _others is None:
            raise
        return _end_after_bug(error, _others)


def end_program(line: str) -> NoReturn:
    """Ends this process with an error line at once, whichever thread calls."""
    _end_with_line(line, BAD_INPUT)
    os._exit(BAD_INPUT)


def _end_with_line(line: str, code: int) -> int:
    if _others is not None:
        _others.report_failure(line)
        _others.end(line, code)
        return code
    try:
        print(f"error: {line}", file=sys.stderr, flush=True)
    except BrokenPipeError:
        _close_outputs()
    return code


def _end_after_bug(error: Exception, others: OtherProcesses) -> int:
    """Ends one of several processes after an error that may come from the end of another one."""
    _await_verdict(others)
    traceback.print_exception(error)
    others.report_failure(describe_error(error))
    others.end("", BUG)
    return BUG


def _comes_from_library(error: UserError) -> bool:
    """Whether an error explains one of a library, but for those of the file system."""
    cause = error.__cause__
    while isinstance(cause, UserError):
        cause = cause.__cause__
    return cause is not None and not isinstance(cause, OSError)


def _await_verdict(others: OtherProcesses) -> None:
    """Returns if no process has gone; otherwise the watch ends this process meanwhile.

    A collective fails where a process has gone, whatever it was part of.
    """
    others.suspect()
    time.sleep(VERDICT_SECONDS)


def _close_outputs() -> None:
    """Sends what is still to be written nowhere, so that Python can end without a word."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(nowhere, stream.fileno())
