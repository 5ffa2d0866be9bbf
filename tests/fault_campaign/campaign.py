"""Which runs are hurt how, all of them at several at a time, and what came out."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fault_campaign.bench import Bench
from fault_campaign.kinds import KINDS
from fault_campaign.processes import Violation
from fault_campaign.trial import Trial


@dataclasses.dataclass(frozen=True)
class Result:
    """What came out of one hurt run.

    Attributes:
      number: of the trial.
      kind: name of its fault kind.
      problem: what came out that must not; "" where the run survived.
      lost_steps: saved steps that were done again.
      differences: from the unbroken run.
      outcomes: how each of its processes ended, in order.
      seconds: that the trial took.
    """

    number: int
    kind: str
    problem: str
    lost_steps: int
    differences: int
    outcomes: tuple[str, ...]
    seconds: float

    @property
    def survived(self) -> bool:
        """Whether everything is as it must be."""
        return not self.problem


def plan(kinds: Sequence[str], runs: int) -> list[tuple[str, int]]:
    """Kind of every run, and how many of its kind come before it; kinds take turns."""
    return [(kinds[i % len(kinds)], i // len(kinds)) for i in range(runs)]


def run_campaign(
    bench: Bench,
    folder: Path,
    trials: Sequence[tuple[str, int]],
    *,
    seed: int,
    jobs: int,
    report: Callable[[Result], None],
) -> list[Result]:
    """Runs all trials, ``jobs`` at a time.

    Args:
      folder: for their files.
      trials: from ``plan``.
      seed: of everything random; a trial depends on it, on its kind and on its turn alone.
      report: called with each result as it comes.

    Returns:
      results in the order of ``trials``.
    """
    results: list[Result] = []
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        futures = [
            pool.submit(run_trial, bench, folder, number, kind, turn, seed)
            for number, (kind, turn) in enumerate(trials, 1)
        ]
        try:
            for future in concurrent.futures.as_completed(futures):
                results.append(future.result())
                report(results[-1])
        finally:
            # After Ctrl-C, or a mistake of the campaign itself, only what has begun goes on.
            pool.shutdown(cancel_futures=True)
    return sorted(results, key=lambda result: result.number)


def run_trial(bench: Bench, folder: Path, number: int, name: str, turn: int, seed: int) -> Result:
    """Hurts one run."""
    kind = KINDS[name]
    start = time.monotonic()
    trial = Trial(
        bench,
        kind.shapes[turn % len(kind.shapes)],
        folder / f"{number:03d}_{name}",
        random.Random(f"{seed}/{name}/{turn}"),
    )
    problem = ""
    try:
        # First the unbroken run, which also compiles what the others only read.
        trial.bench.unbroken(trial.shape)
        start = time.monotonic()
        kind.hurt(trial)
    except Violation as violation:
        problem = str(violation)
    return Result(
        number=number,
        kind=name,
        problem=problem,
        lost_steps=trial.lost_steps,
        differences=trial.differences,
        outcomes=tuple(trial.outcomes),
        seconds=round(time.monotonic() - start, 1),
    )
