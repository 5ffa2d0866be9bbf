"""Hooks run between steps: evaluation, samples, profiles. Also here: stopping on a signal.

In: the number of steps done, and the train state. Out: a ``Report`` of metrics, images and samples,
which the loop writes.
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
from PIL import Image

from corl_jax.core.processes.agreement import any_process
from corl_jax.core.time_limits import stop_running_call
from corl_jax.engine.completions import StepSample
from corl_jax.engine.state import TrainState


@dataclasses.dataclass(frozen=True)
class Report:
    """What a hook adds to its step.

    Attributes:
      metrics: more columns for the row of the step.
      images: name to image, for the folder ``samples/`` and the trackers.
      samples: of the step, for the folder ``completions/`` and the trackers.
    """

    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    images: Mapping[str, Image.Image] = dataclasses.field(default_factory=dict)
    samples: tuple[StepSample, ...] = ()


class Hook(Protocol):
    """Called by the loop around its steps.

    ``steps_done`` counts finished steps; it is 0 before the first step of a new run.
    """

    def before_step(self, steps_done: int) -> None:
        """Called right before the next step begins."""
        ...

    def is_due(self, steps_done: int, is_last: bool) -> bool:
        """Whether to call ``run`` after this step.

        A pure function of its arguments, so that a resumed run reports at the same steps.
        """
        ...

    def run(self, steps_done: int, state: TrainState) -> Report:
        """Reads the state. The next step donates it, so no array of it may be kept."""
        ...

    def close(self) -> None:
        """Called when the run ends, also after an error."""
        ...


@dataclasses.dataclass(frozen=True)
class PeriodicHook:
    """A hook that calls a function at regular intervals.

    Attributes:
      every_steps: steps between two calls; 0 for none.
      report: ``(steps_done, state)`` to a report.
      at_start: also before the first step of a new run.
      at_end: also after the last step.
    """

    every_steps: int
    report: Callable[[int, TrainState], Report]
    at_start: bool = False
    at_end: bool = True

    def before_step(self, steps_done: int) -> None:
        """Does nothing."""

    def is_due(self, steps_done: int, is_last: bool) -> bool:
        """True at multiples of ``every_steps``, and at the start and the end where wanted."""
        if steps_done == 0:
            return self.at_start
        is_multiple = self.every_steps > 0 and steps_done % self.every_steps == 0
        return is_multiple or (is_last and self.at_end)

    def run(self, steps_done: int, state: TrainState) -> Report:
        """Calls ``report``."""
        return self.report(steps_done, state)

    def close(self) -> None:
        """Does nothing."""


class Profile:
    """A hook that traces the steps ``first + 1 .. first + count`` for TensorBoard or XProf.

    Args:
      folder: where the trace is written.
      first: steps before the trace.
      count: steps in the trace.
    """

    def __init__(self, folder: Path, first: int, count: int):
        self._folder = folder
        self._first = first
        self._end = first + count
        self._tracing = False

    def before_step(self, steps_done: int) -> None:
        """Starts the trace; a run that resumes within the range traces the remaining steps."""
        if self._first <= steps_done < self._end and not self._tracing:
            jax.profiler.start_trace(str(self._folder))
            self._tracing = True

    def is_due(self, steps_done: int, is_last: bool) -> bool:
        """True after the last traced step."""
        return steps_done == self._end

    def run(self, steps_done: int, state: TrainState) -> Report:
        """Waits for the traced steps, then stops the trace."""
        jax.block_until_ready(state)
        self.close()
        return Report()

    def close(self) -> None:
        """Stops the trace if it is still running."""
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False


class Preempted(SystemExit):
    """The run got a signal to stop, saved a checkpoint, and ends with exit code 0.

    Args:
      steps_done: finished steps.
    """

    def __init__(self, steps_done: int):
        super().__init__(0)
        self.steps_done = steps_done


class Preemption:
    """A context in which signals request a stop instead of killing the process.

    SIGTERM and the first SIGINT request a stop; a second SIGINT interrupts. Outside the main thread
    Python cannot catch signals: there nothing changes, and no stop is ever requested.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self._is_requested = False
        self._old_handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Preemption:
        # Python only allows the main thread to set handlers.
        if threading.current_thread() is threading.main_thread():
            self._old_handlers = {
                number: signal.signal(number, self._catch) for number in self.SIGNALS
            }
        return self

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self._is_requested = True
        # A reward that hangs would keep the step from ending.
        stop_running_call()
        # Whoever presses Ctrl-C twice does not want to wait for the step.
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def requested(self) -> bool:
        """Whether any process of the run got a signal; the answer is the same on all of them."""
        # Signals reach the hosts at different times, and all must stop after the same step.
        return any_process(self._is_requested)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
