"""A worker process: reads calls from its standard input and writes their results.

It ends when its input does, so it never outlives the program that it works for.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys


def main() -> None:
    """Answers calls until there are no more."""
    # The program decides when its workers end, not the terminal, nor a host that stops a job: the
    # program still needs them for the step that it finishes then.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)

    # What a library prints must not get between the results.
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    calls = sys.stdin.buffer

    # A program that was killed is no longer there to read a result.
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            function, arguments = pickle.load(calls)
            try:
                reply = pickle.dumps((function(*arguments), None), pickle.HIGHEST_PROTOCOL)
            except Exception as error:
                reply = pickle.dumps((None, error), pickle.HIGHEST_PROTOCOL)
            results.write(reply)
            results.flush()


if __name__ == "__main__":
    main()
