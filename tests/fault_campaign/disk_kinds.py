"""Runs whose folder can no longer be written.

A full disk is a small file system in memory, in a name space of its own, so that no other process
notices. Where the kernel allows no such thing, that kind cannot be run.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
from pathlib import Path

from fault_campaign.kinds import kind
from fault_campaign.remains import saved_steps
from fault_campaign.small_run import STEPS
from fault_campaign.trial import Trial

MOUNT = """
mount -t tmpfs -o size="$1" tmpfs "$2" || exit 99
rest="$3" folder="$2"; shift 3
"$@"; code=$?
cp -a "$folder/." "$rest" || exit 98
exit $code
"""
"""Shell arguments: bytes, folder, another folder that gets a copy in the end, command."""


@kind()
def full_disk(trial: Trial) -> None:
    """The disk is full at a random file; then there is room again."""
    size = int(trial.rng.uniform(0.1, 0.95) * trial.unbroken.disk_bytes)
    trial.workdir.mkdir()
    # The copy has what was on the small disk, which goes with its name space.
    rest = trial.folder / "rest"
    rest.mkdir()
    mount = ["sh", "-c", MOUNT, "sh", str(size), str(trial.workdir), str(rest)]
    run = trial.start(prefix=[*name_space(), *mount])
    run.wait_until(lambda: run.is_over)
    shutil.copytree(rest, trial.workdir, dirs_exist_ok=True)
    trial.end_refused(run)
    trial.finish()


@functools.cache
def name_space() -> list[str]:
    """The command that runs another one where it may mount; empty where the kernel forbids it."""
    for command in (["unshare", "--mount"], ["unshare", "--mount", "--map-root-user"]):
        probe = [*command, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
        if shutil.which("unshare") and not subprocess.run(probe, capture_output=True).returncode:
            return command
    return []


@kind()
def read_only(trial: Trial) -> None:
    """The folder becomes read-only at a random moment, and stays so for another start."""
    run = trial.start(prefix=without_override())
    run.wait_until(trial.workdir.exists)
    trial.wait_for_random_moment(run)

    # The run stands still meanwhile, so that no file appears between two others.
    run.send(signal.SIGSTOP)
    set_writable(trial.workdir, False)
    run.send(signal.SIGCONT)
    try:
        ending = trial.end(run)[0]
        # Files that are open can still be written, so a run that has saved its last step is done.
        if ending.code == 0 and saved_steps(trial.workdir)[-1:] == [STEPS]:
            trial.note("read-only after the last write")
        else:
            ending.check_refusal()
            trial.refuse("cannot be written", prefix=without_override())
    finally:
        set_writable(trial.workdir, True)
    trial.finish()


def set_writable(folder: Path, value: bool) -> None:
    """Lets all folders and files under ``folder`` be written or not."""
    for path in [folder, *folder.rglob("*")]:
        mode = path.stat().st_mode
        path.chmod(mode | 0o200 if value else mode & ~0o222)


def without_override() -> list[str]:
    """The command that takes from root the right to write where nobody may; nothing for others."""
    return ["setpriv", "--bounding-set=-dac_override"] if os.getuid() == 0 else []
