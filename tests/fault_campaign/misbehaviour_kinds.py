"""Runs in whose own process something goes wrong, and which are started again without it."""

from __future__ import annotations

from helpers import metric_rows

from fault_campaign.bench import Shape
from fault_campaign.kinds import kind
from fault_campaign.processes import Violation
from fault_campaign.remains import saved_steps
from fault_campaign.signal_kinds import stop
from fault_campaign.small_run import STEPS
from fault_campaign.trial import Trial

TIMEOUT = 5
"""Seconds that a reward may take in runs whose rewards hang."""
TIMED = Shape("timed", flags=(f"--config.rewards.options.timeout={TIMEOUT}",))

SKIPPED = "skipped_updates"
"""Column that counts skipped updates."""

HANG_LIMIT = TIMEOUT + 25.0
"""Seconds after which a run with a hanging reward must have ended, also on a busy machine."""


@kind()
def nan_reward(trial: Trial) -> None:
    """A reward is NaN for one record."""
    end_by_reward(trial, "nan")


@kind()
def huge_reward(trial: Trial) -> None:
    """A reward is 1e39, which is infinite in float32."""
    end_by_reward(trial, "huge")


@kind()
def raising_reward(trial: Trial) -> None:
    """A reward raises an error of its own, whose text has two lines."""
    end_by_reward(trial, "raise")


@kind(TIMED)
def hanging_reward(trial: Trial) -> None:
    """A reward never returns."""
    end_by_reward(trial, trial.rng.choice(["sleep", "spin"]), HANG_LIMIT)


def end_by_reward(trial: Trial, way: str, limit: float | None = None) -> None:
    """One line names the reward; the mended run goes on, and no step is lost.

    Args:
      way: how a random reward misbehaves in a random step.
      limit: seconds in which the run must end from then on.
    """
    misbehaviour = trial.random_misbehaviour(way)
    run = trial.start(misbehaviour=misbehaviour)
    trial.wait_for_marker(run)
    trial.end_refused(run, misbehaviour.reward, limit=limit)
    trial.finish()


@kind()
def hanging_reward_term(trial: Trial) -> None:
    """SIGTERM while a reward hangs."""
    run = trial.start(misbehaviour=trial.random_misbehaviour(trial.rng.choice(["sleep", "spin"])))
    trial.wait_for_marker(run)
    trial.wait_seconds(run, trial.rng.uniform(0, 1))
    stop(trial, run)
    trial.finish()


@kind()
def no_memory(trial: Trial) -> None:
    """A data thread finds no memory."""
    step = trial.rng.randint(1, STEPS)
    run = trial.start(program=hurt_program(trial, "no_memory", step, step))
    trial.wait_for_marker(run)
    trial.end_refused(run)
    trial.finish()


@kind()
def nan_gradient(trial: Trial) -> None:
    """The gradient of one step is NaN: that update is skipped, and a column counts it."""
    step = trial.rng.randint(1, STEPS)
    run = trial.start(program=hurt_program(trial, "nan_gradient", step, step))
    trial.wait_for_marker(run)
    trial.end(run)[0].check_success()

    # Up to that step all is as in the unbroken run, and in it the parameters stand still.
    rows, unbroken = metric_rows(trial.workdir), trial.unbroken.remains.rows
    if rows[: step - 1] != unbroken[: step - 1]:
        raise Violation(f"a row before step {step} differs from that of the unbroken run")
    norms = [row["param_norm"] for row in rows]
    if None in norms:
        raise Violation(f"parameters are not finite; their norms are {norms}")
    if step > 1 and norms[step - 1] != norms[step - 2]:
        raise Violation(f"the update of step {step} was not skipped; norms are {norms}")
    if [row["step"] for row in rows if row[SKIPPED]] != [step] or len(rows) != STEPS:
        raise Violation(f"{SKIPPED} must count step {step} of {STEPS} alone; got {rows}")
    if saved_steps(trial.workdir)[-1:] != [STEPS]:
        raise Violation(f"the last step is not saved; there are {saved_steps(trial.workdir)}")


@kind()
def nan_gradients(trial: Trial) -> None:
    """Gradients are NaN from some step on: the run stops, and goes on from a sound checkpoint."""
    first = trial.rng.randint(1, STEPS - 2)
    run = trial.start(program=hurt_program(trial, "nan_gradient", first, STEPS))
    trial.wait_for_marker(run)
    trial.end_refused(run, f"step {first + 2}", "shapes-train-")
    trial.finish()


def hurt_program(trial: Trial, way: str, first: int, last: int) -> list[str]:
    """Arguments of Python for the program that goes wrong in some steps."""
    return ["-m", "fault_campaign.hurt_main", way, str(first), str(last), str(trial.marker)]
