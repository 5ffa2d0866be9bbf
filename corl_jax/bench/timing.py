"""Times contenders side by side, in rounds: each of them rests while another one runs.

A training step is one rollout of each task and one update on both. No rollout ends early: every
answer has its full length.
"""

from __future__ import annotations

import dataclasses
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import jax
import numpy as np

# The contenders, and what tables, progress lines and JSON files call them.
CORL_JAX, TRANSFORMERS = "corl_jax", "transformers"
LABELS = {CORL_JAX: "ours", TRANSFORMERS: "theirs"}

# Parts of a training step, and their sum.
PHASES = ("rollout_image", "rollout_text", "update", "total")
# Pause before every timing. Threads of the contender before it, which wait for work awake, fall
# asleep meanwhile.
REST_SECONDS = 0.5

# Prints a line of progress.
LogLine = Callable[[str], None]

R = TypeVar("R")


class StepContender(Protocol[R]):
    """A program that takes training steps; every method returns when its work is done.

    ``R`` is the contender's type of a rollout.
    """

    def sample_images(self, seed: int) -> R:
        """Rollout of images, pixels included."""
        ...

    def sample_text(self, seed: int) -> R:
        """Rollout of answers."""
        ...

    def update(self, image: R, text: R) -> Any:
        """Gradient of both tasks' losses on these rollouts, and a step of AdamW."""
        ...


@dataclasses.dataclass(frozen=True)
class StepTiming:
    """Seconds of a training step.

    Attributes:
      seconds: medians by contender and phase.
      first_step: seconds of corl_jax's first step, compilation included.
      threads: number of torch's threads by phase; None without torch.
      update_flops: of corl_jax's update without what its backward pass computes again, on all
        devices together; None where they were not counted.
      theirs_error: why transformers has no times though it was to run, on one line.
    """

    seconds: dict[str, dict[str, float]]
    first_step: float
    threads: dict[str, int] | None
    update_flops: float | None = None
    theirs_error: str | None = None


def time_call(call: Callable[[], Any]) -> tuple[float, np.ndarray]:
    """Seconds that ``call`` takes until its output is on the host, and that output."""
    start = time.perf_counter()
    # JAX returns before its work is done; a NumPy array needs the values.
    output = np.asarray(call())
    return time.perf_counter() - start, output


def median_ms(call: Callable[[], Any], repeats: int) -> float:
    """Median milliseconds of ``repeats`` calls after one that compiles."""
    jax.block_until_ready(call())

    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - start)
    return 1e3 * statistics.median(seconds)


def time_step(contender: StepContender, seed: int) -> dict[str, float]:
    """Seconds of one training step by phase."""
    # Times at which phases begin and end. No phase leaves work to the next one.
    times = [time.perf_counter()]
    image = contender.sample_images(seed)
    times.append(time.perf_counter())
    text = contender.sample_text(seed)
    times.append(time.perf_counter())
    contender.update(image, text)
    times.append(time.perf_counter())

    phase_seconds = [end - start for start, end in zip(times, times[1:], strict=False)]
    return dict(zip(PHASES, (*phase_seconds, times[-1] - times[0]), strict=True))


def time_rounds(
    contenders: Mapping[str, StepContender], rounds: int, log: LogLine
) -> dict[str, dict[str, float]]:
    """Median seconds by contender and phase over ``rounds`` steps of each."""
    steps: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}

    # Contenders alternate, so that a slow minute of the machine hits all of them.
    for round_number in range(1, rounds + 1):
        for name, contender in contenders.items():
            time.sleep(REST_SECONDS)

            # The number of the round is the seed, so that samples differ from round to round.
            seconds = time_step(contender, round_number)
            steps[name].append(seconds)
            log(f"turn {round_number} of {rounds}, {LABELS[name]}: {seconds['total']:.2f} s")

    return {name: median_by_phase(timings) for name, timings in steps.items()}


def median_by_phase(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Medians over several steps, phase by phase."""
    return {phase: statistics.median(step[phase] for step in steps) for phase in PHASES}


def write_trace(call: Callable[[], Any], folder: pathlib.Path | None) -> None:
    """Runs ``call`` once more and writes JAX's trace of it to ``folder``; does nothing for None."""
    if folder is not None:
        with jax.profiler.trace(str(folder)):
            call()
