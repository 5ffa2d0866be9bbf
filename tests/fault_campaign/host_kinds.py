"""Runs on two hosts, of which one fails or is killed."""

from __future__ import annotations

import signal
import time

from fault_campaign.bench import HOSTS
from fault_campaign.kinds import kind
from fault_campaign.signal_kinds import check_killed
from fault_campaign.small_run import STEPS
from fault_campaign.trial import Trial

FAIL_SECONDS = 20.0
"""All hosts must end so soon after one of them failed."""
KILL_SECONDS = 120.0
"""The others must end so soon after one was killed, whose silence they have to notice first."""


@kind(HOSTS)
def host_fails(trial: Trial) -> None:
    """A reward fails on one of two hosts: both end at once, each with one line."""
    process = trial.rng.randrange(HOSTS.processes)
    way = trial.rng.choice(["nan", "raise"])
    run = trial.start(misbehaviour=trial.random_misbehaviour(way), process=process)
    trial.wait_for_marker(run)
    start = time.monotonic()
    trial.end_refused(run, limit=FAIL_SECONDS)
    trial.note(f"both ended after {time.monotonic() - start:.0f} s")
    trial.finish()


@kind(HOSTS)
def host_killed(trial: Trial) -> None:
    """One of two hosts is killed: the other ends in bounded time with a line that says so."""
    process = trial.rng.randrange(HOSTS.processes)
    run = trial.start()
    run.wait_until(trial.workdir.exists)
    trial.wait_for_rows(run, trial.rng.randint(0, STEPS - 2))
    trial.wait_seconds(run, trial.rng.uniform(0, 1))
    run.send(signal.SIGKILL, process)

    start = time.monotonic()
    endings = trial.end(run, KILL_SECONDS)
    trial.note(f"the other ended after {time.monotonic() - start:.0f} s")
    check_killed(endings[process])
    other = endings[1 - process]
    if endings[process].code:
        other.check_refusal("process")
    else:
        other.check_success()
    trial.finish()
