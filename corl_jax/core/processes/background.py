"""Work beside the main thread: a call whose error is kept, and exchanges between such threads.

The exchanges of ``agreement`` and the collectives of devices belong to the main threads, which make
them in one order. A thread beside them needs keys and barriers of its own in the store.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any, cast

import jax
from jax._src.distributed import global_state

from corl_jax.core.errors import UserError
from corl_jax.core.processes.agreement import WEEK_IN_MS

BACKGROUND = "corl_jax/background/"
"""Folder of the store with the texts of background threads, and prefix of their barriers."""


class BackgroundCall:
    """A call in a thread of its own, begun at once.

    Args:
      name: of the thread.
      call: may raise; the error is kept for ``raise_error``.
    """

    def __init__(self, name: str, call: Callable[[], None]):
        self._call = call
        self._error: Exception | None = None
        self._ended = threading.Event()
        # A daemon: whoever ends the process without waiting must not be kept by it.
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def _run(self) -> None:
        try:
            self._call()
        except Exception as error:
            self._error = error
        finally:
            # What the call holds, such as arrays, goes with it.
            del self._call
            self._ended.set()

    @property
    def has_ended(self) -> bool:
        """Whether the call has returned or raised."""
        return self._ended.is_set()

    def raise_error(self) -> None:
        """Raises what the call has raised so far; does not wait."""
        if self._error is not None:
            raise self._error

    def join(self) -> None:
        """Waits for the end of the call."""
        self._ended.wait()

    def wait(self) -> None:
        """Waits for the end of the call, and raises what it raised."""
        self.join()
        self.raise_error()


class BackgroundExchange:
    """Brings texts of all processes together; one background thread at a time may use it.

    All processes must make one at the same point of the program.
    """

    _exchanges = 0
    """Of all instances, so that no barrier is used twice."""

    def texts(self, text: str) -> list[str]:
        """The text of every process, in their order, on each of them."""
        if jax.process_count() == 1:
            return [text]
        number, client = BackgroundExchange._exchanges, cast(Any, global_state.client)
        BackgroundExchange._exchanges += 1

        # Who has come to a barrier has read the texts of the one before it.
        folder = f"{BACKGROUND}{number}/"
        client.key_value_set(f"{folder}{jax.process_index():06d}", text, True)
        client.wait_at_barrier(f"{BACKGROUND}barrier/{number}", WEEK_IN_MS)
        if number > 0:
            client.key_value_delete(f"{BACKGROUND}{number - 1}/{jax.process_index():06d}")
        return [entry for _, entry in sorted(client.key_value_dir_get(folder))]

    def on_first_process(self, action: Callable[[], str]) -> str:
        """Runs ``action`` on process 0 while the others wait; what it returned, on all of them.

        Raises:
          UserError: on every process, if ``action`` raised it on process 0.
        """
        answer, failure = "", None
        if jax.process_index() == 0:
            try:
                answer = action()
            except UserError as error:
                failure = error
        message, answer = json.loads(self.texts(json.dumps([str(failure or ""), answer]))[0])
        if failure is not None:
            raise failure
        if message:
            raise UserError(f"process 0 of {jax.process_count()} stopped: {message}")
        return answer
