"""Calls that all processes of a run make together: exchanges of errors, flags, texts and arrays.

With one process everything here returns at once. With several, all main threads must make the same
calls in the same order. Every call exchanges first whether a process has failed, and then raises on
all of them, so that none waits for one that will not come. The exchange takes about a millisecond
and does not wait for the devices.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import numpy as np
from jax._src.distributed import global_state
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from corl_jax.core.errors import SharedError, StopRequested, UserError
from corl_jax.core.processes.watch import current_watch
from corl_jax.core.time_limits import unlimited

T = TypeVar("T")

TEXTS, BARRIER = "corl_jax/texts/", "corl_jax/exchange"
"""Folder of the store with the text of each process, and the point where all of them meet."""

WEEK_IN_MS = 7 * 24 * 3600 * 1000
"""How long a process waits for the others; the watch ends it earlier where it waits in vain."""

# Exchanges so far, and the text that each of the two slots has in the store.
_exchanges = 0
_slots = ["", ""]


def check_failures(failure: UserError | StopRequested | None = None) -> None:
    """Exchanges whether any process has failed.

    Args:
      failure: of this process.

    Raises:
      SharedError: on every process, if any of them failed; a process that did not gets the message
        of one that did.
      StopRequested: on every process, if any of them was told to stop.
    """
    _exchange("", failure)


def on_all_processes(action: Callable[[], T]) -> T:
    """Runs ``action`` on every process; if it fails on one of them, every process raises.

    Returns:
      what ``action`` returned on this process.

    Raises:
      UserError, StopRequested: on every process, if ``action`` raised it on some.
    """
    if jax.process_count() == 1:
        return action()
    # The error is kept until every process has run the action.
    try:
        returned = action()
    except SharedError:
        raise  # all know it from a call within the action
    except (UserError, StopRequested) as error:
        check_failures(error)
        raise
    check_failures()
    return returned


def on_first_process(action: Callable[[], T]) -> T | None:
    """Runs ``action`` on process 0 while the others wait.

    Returns:
      what ``action`` returns on process 0, None on the others.

    Raises:
      UserError: on every process, if ``action`` raised it on process 0.
    """
    return on_all_processes(lambda: action() if jax.process_index() == 0 else None)


def any_process(flag: bool) -> bool:
    """Whether ``flag`` is true on any process; the answer is the same on all of them."""
    return any(_exchange("1" if flag else "")) if jax.process_count() > 1 else flag


def largest_of_processes(number: int) -> int:
    """The largest of the numbers of all processes, on each of them."""
    return max(map(int, texts_of_processes(str(number))))


def texts_of_processes(text: str) -> list[str]:
    """The text of every process, in their order, on each of them. Meant for short texts."""
    return _exchange(text) if jax.process_count() > 1 else [text]


def assert_same_on_all(label: str, text: str) -> None:
    """Checks that ``text`` is the same on every process.

    Args:
      label: what the text is, for the error message.
      text: compared by its hash, so it may be long.

    Raises:
      UserError: on every process; the message names those that differ from process 0.
    """
    digests = texts_of_processes(hashlib.sha256(text.encode()).hexdigest())
    differing = [index for index, digest in enumerate(digests) if digest != digests[0]]
    if differing:
        indices = ", ".join(map(str, differing))
        raise SharedError(
            f"process {indices} of {jax.process_count()} has another {label} than process 0; "
            "start the same command with the same checkout on every host"
        )


def all_gather(tree: PyTree) -> PyTree[np.ndarray]:
    """Arrays of which each process has a part as complete NumPy arrays on all of them."""
    check_failures()
    return multihost_utils.process_allgather(tree, tiled=True)


def _exchange(text: str, failure: UserError | StopRequested | None = None) -> list[str]:
    """The texts of all processes; raises on all of them if any passed a failure."""
    watch = current_watch()
    if jax.process_count() == 1:
        if failure is not None:
            raise failure
        return [text]

    # A process that never comes here, since it waits for this one in vain, hears of it too.
    if watch is not None and isinstance(failure, UserError):
        watch.report_failure(str(failure))
    entry = [text, "", False]
    if isinstance(failure, StopRequested):
        entry = [text, "", True]
    elif failure is not None:
        entry = [text, str(failure), False]
    entries = [json.loads(other) for other in _meet(json.dumps(entry))]

    # One's own error first; it has a traceback that leads to the cause.
    errors = {index: error for index, (_, error, _) in enumerate(entries) if error}
    if errors:
        if watch is not None:
            watch.report_agreement()
        index, error = min(errors.items())
        if isinstance(failure, UserError):
            raise SharedError(str(failure)) from failure
        raise SharedError(f"process {index} of {jax.process_count()} stopped: {error}")
    if any(must_stop for _, _, must_stop in entries):
        raise StopRequested
    return [other for other, _, _ in entries]


def _meet(text: str) -> list[str]:
    """Waits until all processes have come here, and returns their texts in order."""
    global _exchanges
    # Two slots in turn: who overwrites a text has met all others once since they read it.
    slot, client = _exchanges % 2, cast(Any, global_state.client)
    _exchanges += 1
    if _slots[slot] != text:
        client.key_value_set(f"{TEXTS}{slot}/{jax.process_index():06d}", text, True)
        _slots[slot] = text

    # Another process may take its time; that is not the time of whatever runs here.
    with unlimited():
        client.wait_at_barrier(BARRIER, WEEK_IN_MS)
        entries = sorted(client.key_value_dir_get(f"{TEXTS}{slot}/"))
    return [entry for _, entry in entries]
