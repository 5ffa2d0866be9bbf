"""One run that is hurt: its folder, its random moments, and the checks on what comes out."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from fault_campaign.bench import PROGRAM, Bench, Paths, Shape, Unbroken
from fault_campaign.processes import Ending, Run, Violation
from fault_campaign.remains import (
    Differences,
    differences,
    kept_steps,
    metric_lines,
    read_remains,
    saved_steps,
)
from fault_campaign.small_rewards import VARIABLE, Misbehaviour
from fault_campaign.small_run import REWARDS, STEPS

STARTING_SHARE = 0.25
"""Share of random moments before the first step; the others are between or in steps and saves."""
STEP_SECONDS = 0.4
"""A random moment is up to so long after a row; a step with its save takes about as long."""


class Trial:
    """A run that a fault kind hurts, mends and brings to its end.

    Attributes:
      rng: of everything that is random in this trial.
      shape: of the run.
      folder: of all its files.
      paths: of the run; a kind that changes inputs copies them first.
      marker: file that misbehaving code makes when it starts.
      outcomes: how every process ended so far, and what a kind notes of itself.
      lost_steps: steps before the last intact checkpoint that were done again.
      differences: from the unbroken run.
    """

    def __init__(self, bench: Bench, shape: Shape, folder: Path, rng: random.Random):
        folder.mkdir(parents=True)
        self.bench, self.shape, self.folder, self.rng = bench, shape, folder, rng
        self.paths = Paths(bench.inputs.policy, bench.inputs.records, folder / "run")
        self.marker = folder / "marker"
        self.outcomes: list[str] = []
        self.lost_steps, self.differences = 0, 0
        self._runs = 0

    @property
    def unbroken(self) -> Unbroken:
        """The run of the same shape that nothing happened to."""
        return self.bench.unbroken(self.shape)

    @property
    def workdir(self) -> Path:
        """The work directory."""
        return self.paths.workdir

    # Starting and waiting.

    def start(
        self,
        *flags: str,
        misbehaviour: Misbehaviour | None = None,
        process: int = 0,
        program: Sequence[str] = PROGRAM,
        prefix: Sequence[str] = (),
    ) -> Run:
        """Starts the run, or starts it again.

        Args:
          *flags: beside those of the shape.
          misbehaviour: of a reward on one process.
          process: the one where the reward misbehaves.
          program, prefix: see ``Bench.start``.
        """
        self._runs += 1
        variables = {process: {VARIABLE: misbehaviour.to_json()}} if misbehaviour else None
        return self.bench.start(
            self.shape,
            self.paths,
            self.folder / f"stderr_{self._runs}",
            program=program,
            prefix=prefix,
            flags=flags,
            variables=variables,
        )

    def end(self, run: Run, limit: float | None = None) -> list[Ending]:
        """Waits for all processes of a run and notes how they ended."""
        endings = run.end() if limit is None else run.end(limit)
        # Without paths of this trial, equal outcomes are equal texts.
        self.outcomes += [str(ending).replace(f"{self.folder}/", "") for ending in endings]
        return endings

    def end_refused(self, run: Run, *words: str, limit: float | None = None) -> None:
        """Waits for a run of which every process must end with one line of error.

        Args:
          *words: that the line must have.
          limit: seconds in which all processes must end.

        Raises:
          Violation: one ends in another way; where all is done, it says what is different.
        """
        endings = self.end(run, limit)
        if all(ending.code == 0 for ending in endings):
            found = self.count_differences()
            raise Violation(f"the run must be refused; it was not, and differs by {found}")
        for ending in endings:
            ending.check_refusal(*words)

    def note(self, text: str) -> None:
        """Adds what happened to the outcomes of this trial."""
        self.outcomes.append(text)

    def random_misbehaviour(self, way: str) -> Misbehaviour:
        """A reward that misbehaves in a random step."""
        reward = self.rng.choice(sorted(REWARDS.values()))
        return Misbehaviour(reward, way, self.rng.randint(1, STEPS), str(self.marker))

    def wait_for_rows(self, run: Run, rows: int) -> None:
        """Waits until so many steps have their rows, or the run has ended."""
        run.wait_until(lambda: len(metric_lines(self.workdir)) >= rows)

    def wait_for_random_moment(self, run: Run, first: int = 1, last: int = STEPS - 1) -> None:
        """Waits for some moment after the rows ``first`` to ``last``; after 1 also for one before."""
        if first == 1 and self.rng.random() < STARTING_SHARE:
            # On a machine with more or less to do than before the first row may come earlier.
            end = time.monotonic() + self.rng.uniform(0, self.unbroken.first_row_seconds)
            run.wait_until(lambda: time.monotonic() >= end or bool(metric_lines(self.workdir)))
            return
        self.wait_for_rows(run, self.rng.randint(first, last))
        self.wait_seconds(run, self.rng.uniform(0, STEP_SECONDS))

    def wait_seconds(self, run: Run, seconds: float) -> None:
        """Waits so long, or until the run has ended."""
        end = time.monotonic() + seconds
        run.wait_until(lambda: time.monotonic() >= end)

    def wait_for_marker(self, run: Run) -> None:
        """Waits until misbehaving code has started.

        Raises:
          Violation: it never did, so that this trial shows nothing.
        """
        if not run.wait_until(self.marker.exists):
            endings = "; ".join(map(str, self.end(run)))
            raise Violation(f"the run ended before it was hurt: {endings}")

    # Bringing the run to its end.

    def refuse(self, *words: str, flags: Sequence[str] = (), prefix: Sequence[str] = ()) -> None:
        """Starts the run again, which must end with one line of error that has all ``words``."""
        self.end_refused(self.start(*flags, prefix=prefix), *words)

    def finish(self, *flags: str, last_intact: int | None = None) -> None:
        """Runs the command to its end, and holds what is left against the unbroken run.

        Args:
          *flags: of the mended command.
          last_intact: the newest step that is saved and whole; by default the newest.

        Raises:
          Violation: the run fails, steps are lost, or something differs.
        """
        rows_before = metric_lines(self.workdir)
        steps = saved_steps(self.workdir)
        newest = last_intact if last_intact is not None else max(steps, default=0)
        for ending in self.end(self.start(*flags)):
            ending.check_success()

        kept = kept_steps(rows_before, metric_lines(self.workdir))
        self.lost_steps += max(newest - kept, 0)
        self.compare()
        if self.lost_steps:
            raise Violation(f"step {newest} was saved, and the run went on from step {kept}")

    def compare(self, lost_rows: Collection[int] = ()) -> None:
        """Raises Violation where a finished run differs from the unbroken one.

        Args:
          lost_rows: steps whose rows are gone, which is no difference.
        """
        if found := self.count_differences(lost_rows):
            raise Violation(f"differs from the unbroken run by {found}")

    def count_differences(self, lost_rows: Collection[int] = ()) -> Differences:
        """How a finished run differs from the unbroken one."""
        if saved_steps(self.workdir)[-1:] != [STEPS]:
            raise Violation(f"the last step is not saved; there are {saved_steps(self.workdir)}")
        unbroken = self.unbroken.remains.without_rows(lost_rows)
        found = differences(read_remains(self.workdir), unbroken)
        self.differences += found.count
        return found


Hurt = Callable[[Trial], None]
"""Hurts a run, mends it, and checks it; raises Violation where something came out that must not."""
