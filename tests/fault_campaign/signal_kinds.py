"""Runs that are ended from outside."""

from __future__ import annotations

import signal

from fault_campaign.kinds import kind
from fault_campaign.processes import Ending, Run, Violation
from fault_campaign.remains import metric_lines, saved_steps, steps_in_writing
from fault_campaign.small_run import SAVE_EVERY, STEPS
from fault_campaign.trial import Trial

SAVE_SECONDS = 0.2
"""How long a save takes about; the moment inside it is random up to so long."""

STOP_SECONDS = 60.0
"""A run that gets SIGTERM must end within so many seconds, also on a busy machine."""


@kind()
def kill(trial: Trial) -> None:
    """SIGKILL at a random moment, also while the program starts."""
    run = trial.start()
    trial.wait_for_random_moment(run)
    run.send(signal.SIGKILL)
    check_killed(trial.end(run)[0])
    trial.finish()


@kind()
def kill_in_save(trial: Trial) -> None:
    """SIGKILL while a checkpoint is being written."""
    run = trial.start()
    saves = list(range(SAVE_EVERY, STEPS + 1, SAVE_EVERY))
    for step in saves[trial.rng.randrange(len(saves)) :]:
        run.wait_until(lambda step=step: step in steps_in_writing(trial.workdir))
        trial.wait_seconds(run, trial.rng.uniform(0, SAVE_SECONDS))

        # Only a process that stands still can be looked at.
        run.send(signal.SIGSTOP)
        if writing := steps_in_writing(trial.workdir):
            trial.note(f"killed while step {writing[0]} was written")
            break
        run.send(signal.SIGCONT)
    else:
        # Every save was over before its random moment.
        trial.note("killed after the last save")
    run.send(signal.SIGKILL)
    check_killed(trial.end(run)[0])
    trial.finish()


@kind()
def term(trial: Trial) -> None:
    """SIGTERM at a random moment: the step is saved, and the program ends with exit code 0."""
    run = trial.start()
    trial.wait_for_random_moment(run)
    stop(trial, run)
    trial.finish()


def stop(trial: Trial, run: Run) -> None:
    """Sends SIGTERM, after which no step that has a row may be without a checkpoint."""
    run.send(signal.SIGTERM)
    for ending in trial.end(run, STOP_SECONDS):
        # Before the first step and after the last one there is nothing to save.
        rows, saved = len(metric_lines(trial.workdir)), max(saved_steps(trial.workdir), default=0)
        if ending.code == -signal.SIGTERM and saved == rows:
            ending.check_no_trace()
            continue
        ending.check_success()
        if saved != rows:
            raise Violation(f"step {saved} is saved of {rows} that are done")


def check_killed(ending: Ending) -> None:
    """Raises Violation unless SIGKILL came before an error; a run that was faster is done."""
    if ending.code not in (-signal.SIGKILL, 0):
        raise Violation(f"the run ended by itself: {ending}")
    ending.check_no_trace()
