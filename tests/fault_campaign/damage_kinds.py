"""Runs that were killed, and whose files were damaged before they are started again."""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path

from fault_campaign.kinds import kind
from fault_campaign.processes import Violation
from fault_campaign.remains import saved_steps
from fault_campaign.signal_kinds import check_killed
from fault_campaign.small_run import SAVE_EVERY, STEPS
from fault_campaign.trial import Trial

FALLBACK = "--config.resume.fallback=True"
"""The flag with which a run goes on from the checkpoint before a damaged one."""


@kind()
def truncated(trial: Trial) -> None:
    """A file of the newest checkpoint is cut short."""
    kill_after_saves(trial)
    file = random_file(trial)
    content = file.read_bytes()
    file.write_bytes(content[: trial.rng.randrange(len(content))])
    trial.note(f"cut {file.name} short")
    trial.refuse("damaged", "checkpoints/")
    finish_without_newest(trial)


@kind()
def bit_flip(trial: Trial) -> None:
    """A bit of the newest checkpoint flips, in any of its files."""
    kill_after_saves(trial)
    file = random_file(trial)
    flip_bit(file, trial.rng)
    trial.note(f"flipped a bit of {file.name}")

    # Either it is noticed, or it is in bytes that nobody reads.
    ending = trial.end(trial.start())[0]
    if ending.code == 0:
        trial.compare()
        return
    ending.check_refusal("damaged", "checkpoints/")
    finish_without_newest(trial)


@kind()
def lost_rows(trial: Trial) -> None:
    """Rows of ``metrics.jsonl`` before the newest checkpoint are deleted, and noticed."""
    kill_after_saves(trial)
    file = trial.workdir / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    newest = saved_steps(trial.workdir)[-1]
    first = trial.rng.randint(1, newest)
    last = trial.rng.choice([first, newest, len(lines)])
    file.write_bytes(b"".join(lines[: first - 1] + lines[last:]))
    trial.note(f"deleted rows {first} to {last} of {len(lines)}, with step {newest} saved")

    # Rows cannot be had back, so the run may go on without them if it says so.
    ending = trial.end(trial.start())[0]
    ending.check_success()
    if not any("metrics.jsonl" in line and f"step {first}" in line for line in ending.lines):
        raise Violation("nothing was said about the rows that are missing")
    trial.compare(lost_rows=range(first, min(last, newest) + 1))


def kill_after_saves(trial: Trial) -> None:
    """Kills a run that has two checkpoints or more, and is not done."""
    run = trial.start()
    trial.wait_for_random_moment(run, first=2 * SAVE_EVERY + 1, last=STEPS - 1)
    # Checkpoints are written beside the steps; the second one may still be under way.
    run.wait_until(lambda: len(saved_steps(trial.workdir)) >= 2)
    run.send(signal.SIGKILL)
    check_killed(trial.end(run)[0])
    if len(saved_steps(trial.workdir)) < 2:
        raise Violation(f"two steps must be saved; there are {saved_steps(trial.workdir)}")


def random_file(trial: Trial) -> Path:
    """A file of the newest checkpoint that has some bytes."""
    newest = saved_steps(trial.workdir)[-1]
    files = sorted((trial.workdir / "checkpoints" / str(newest)).rglob("*"))
    return trial.rng.choice([file for file in files if file.is_file() and file.stat().st_size])


def flip_bit(file: Path, rng: random.Random) -> None:
    """Flips one random bit of a file."""
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def finish_without_newest(trial: Trial) -> None:
    """Goes on from the checkpoint before the newest: by flag, or after the folder was deleted."""
    *_, last_intact, newest = saved_steps(trial.workdir)
    if trial.rng.random() < 0.5:
        trial.note("resumed by flag")
        trial.finish(FALLBACK, last_intact=last_intact)
    else:
        trial.note("deleted the checkpoint")
        shutil.rmtree(trial.workdir / "checkpoints" / str(newest))
        trial.finish()
