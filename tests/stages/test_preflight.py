"""What a run checks before it compiles: locks on the accelerator, and that it can write."""

from __future__ import annotations

import errno
import os
import pathlib
import subprocess
import sys

import pytest

from corl_jax.core.errors import UserError
from corl_jax.core.processes.agreement import on_all_processes
from corl_jax.engine.workdir import open_workdir
from corl_jax.stages.preflight import check_accelerator_free, lock_holder, write_probe_file

LOCK_UNTIL_INPUT = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("locked", flush=True)
input()
"""


@pytest.fixture
def lock(tmp_path):
    """A file such as libtpu's."""
    (tmp_path / "lockfile").touch()
    return tmp_path / "lockfile"


def test_a_lock_of_a_running_process(lock):
    """The error gives its process id."""
    holder = subprocess.Popen(
        [sys.executable, "-c", LOCK_UNTIL_INPUT, lock],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout.readline() == b"locked\n"
    try:
        message = f"held by process {holder.pid} .*kill {holder.pid}, then start again"
        for platforms in (None, "", "tpu,cpu"):
            with pytest.raises(UserError, match=message):
                check_accelerator_free(platforms, lock)
        check_accelerator_free("cpu", lock)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
            check_accelerator_free(None, lock)
    finally:
        holder.communicate(b"\n")

    # The file that stays behind is not a lock.
    check_accelerator_free(None, lock)


def test_a_lock_of_this_process_or_no_file_is_no_obstacle(lock, tmp_path):
    status = lock.stat()
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    table = tmp_path / "locks"
    table.write_text(
        f"1: POSIX  ADVISORY  WRITE {os.getpid()} {device} 0 EOF\n"
        f"1: -> POSIX  ADVISORY  WRITE 7 {device} 0 EOF\n"
    )
    assert lock_holder(table.read_text(), status) == os.getpid()
    check_accelerator_free(None, lock, table)
    check_accelerator_free(None, tmp_path / "absent", table)
    assert lock_holder(f"2: FLOCK ADVISORY WRITE 7 {device}1 0 EOF\n", status) is None


def test_a_lock_file_of_another_user(lock, monkeypatch):
    """The error gives the command that removes it."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match=f"left behind by another user.*sudo rm {lock}"):
        check_accelerator_free(None, lock)


@pytest.mark.parametrize(
    ("code", "reason"), [(errno.ENOSPC, "No space left"), (errno.EROFS, "Read-only file system")]
)
def test_a_work_directory_that_cannot_be_written_to(tmp_path, monkeypatch, code, reason):
    workdir = open_workdir(tmp_path, {})
    write_probe_file(workdir, 0)
    assert not list(workdir.checkpoints.iterdir())

    def refuse(path, data):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(pathlib.Path, "write_bytes", refuse)
    message = f"process 3 cannot write to workdir {tmp_path} .*{reason}.*choose another"
    with pytest.raises(UserError, match=message) as error:
        write_probe_file(workdir, 3)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="process 3 cannot write"):
        on_all_processes(lambda: write_probe_file(workdir, 3))


def test_a_work_directory_that_cannot_be_created():
    message = "workdir /proc/run cannot be written .*choose another --workdir"
    with pytest.raises(UserError, match=message):
        open_workdir("/proc/run", {})
