"""What happens between steps: evaluation, samples, profiles, and stopping when asked to.

In: steps done and the state. Out: a ``Report`` of numbers and pictures that the loop writes down.
"""

from __future__ import annotations

import dataclasses
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils
from PIL import Image

from corl_jax.engine.state import TrainState


@dataclasses.dataclass(frozen=True)
class Report:
    """``numbers`` join the row of their step; ``pictures`` go to ``samples/`` and TensorBoard under their names."""

    numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    pictures: Mapping[str, Image.Image] = dataclasses.field(default_factory=dict)


class Hook(Protocol):
    """Called by the loop around its steps. ``done`` counts finished steps; 0 is before the first of a new run."""

    def before(self, done: int) -> None:
        """Right before the next step begins."""
        ...

    def due(self, done: int, last: bool) -> bool:
        """Whether ``run`` is wanted now; a pure function of its arguments, so that a resumed run reports the same."""
        ...

    def run(self, done: int, state: TrainState) -> Report:
        """Looks at the state, which the next step will donate; keep nothing of it."""
        ...

    def close(self) -> None:
        """The run is over, well or not."""
        ...


@dataclasses.dataclass(frozen=True)
class Every:
    """Runs ``report(done, state)`` every ``every`` steps (0 for never), and at the two ends if wanted."""

    every: int
    report: Callable[[int, TrainState], Report]
    at_start: bool = False
    at_end: bool = True

    def before(self, done: int) -> None:
        """Nothing."""

    def due(self, done: int, last: bool) -> bool:
        """At every multiple, and at the ends."""
        if done == 0:
            return self.at_start
        return (self.every > 0 and done % self.every == 0) or (last and self.at_end)

    def run(self, done: int, state: TrainState) -> Report:
        """What ``report`` says."""
        return self.report(done, state)

    def close(self) -> None:
        """Nothing."""


class Profile:
    """Traces the steps ``first + 1 .. first + count`` into ``folder`` for TensorBoard or XProf."""

    def __init__(self, folder: Path, first: int, count: int):
        self._folder, self._first, self._end = folder, first, first + count
        self._tracing = False

    def before(self, done: int) -> None:
        """Begins the trace; a run resumed inside the range traces what is left of it."""
        if self._first <= done < self._end and not self._tracing:
            jax.profiler.start_trace(str(self._folder))
            self._tracing = True

    def due(self, done: int, last: bool) -> bool:
        """At the end of the range."""
        return done == self._end

    def run(self, done: int, state: TrainState) -> Report:
        """Waits for the traced steps and ends the trace."""
        jax.block_until_ready(state)
        self.close()
        return Report()

    def close(self) -> None:
        """Ends a trace that still runs."""
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False


class Preempted(SystemExit):
    """The run was asked to stop, has saved, and leaves with exit code 0. ``done`` steps are finished."""

    def __init__(self, done: int):
        super().__init__(0)
        self.done = done


class Preemption:
    """Context in which SIGTERM, and SIGINT once, ask for a stop instead of killing; a second SIGINT interrupts.

    Outside the main thread signals cannot be caught: there nothing changes and ``asked`` stays false.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self._flag = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Preemption:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._catch) for number in self.SIGNALS}
        return self

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self._flag = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def asked(self) -> bool:
        """Whether any process of the run was asked to stop; all of them get the same answer."""
        if jax.process_count() == 1:
            return self._flag
        return bool(multihost_utils.process_allgather(np.asarray(self._flag)).any())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
