"""What a run checks before it compiles: locks on the accelerator, and whether every process can write."""

from __future__ import annotations

import errno
import os
import pathlib
import subprocess
import sys

import pytest

from corl_jax.core.errors import UserError
from corl_jax.core.processes import on_all_processes
from corl_jax.engine.workdir import open_workdir
from corl_jax.stages.preflight import check_accelerator_free, lock_holder, write_probe_file

HOLD = (
    "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); "
    "print('held', flush=True); input()"
)


@pytest.fixture
def lock(tmp_path):
    """A file such as libtpu's."""
    (tmp_path / "lockfile").touch()
    return tmp_path / "lockfile"


def test_a_lock_that_a_living_process_holds_is_told_with_its_pid(lock):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"held\n"
    try:
        for platforms in (None, "", "tpu,cpu"):
            with pytest.raises(
                UserError,
                match=f"held by process {holder.pid} .*kill {holder.pid}, then start again",
            ):
                check_accelerator_free(platforms, lock)
        check_accelerator_free("cpu", lock)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
            check_accelerator_free(None, lock)
    finally:
        holder.communicate(b"\n")
    check_accelerator_free(None, lock)  # what stays behind is no lock


def test_our_own_lock_and_no_file_are_no_hindrance(lock, tmp_path):
    status = lock.stat()
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    table = tmp_path / "locks"
    table.write_text(
        f"1: POSIX  ADVISORY  WRITE {os.getpid()} {place} 0 EOF\n1: -> POSIX  ADVISORY  WRITE 7 {place} 0 EOF\n"
    )
    assert lock_holder(table.read_text(), status) == os.getpid()
    check_accelerator_free(None, lock, table)
    check_accelerator_free(None, tmp_path / "absent", table)
    assert lock_holder(f"2: FLOCK ADVISORY WRITE 7 {place}1 0 EOF\n", status) is None


def test_a_lockfile_of_another_user_is_told_with_the_cure(lock, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match=f"left behind by another user.*sudo rm {lock}"):
        check_accelerator_free(None, lock)


@pytest.mark.parametrize(
    ("code", "says"), [(errno.ENOSPC, "No space left"), (errno.EROFS, "Read-only file system")]
)
def test_a_work_directory_that_cannot_be_written_is_told_before_anything_is_compiled(
    tmp_path, monkeypatch, code, says
):
    workdir = open_workdir(tmp_path, {})
    write_probe_file(workdir, 0)
    assert not list(workdir.checkpoints.iterdir())

    def refuse(path, data):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(pathlib.Path, "write_bytes", refuse)
    with pytest.raises(
        UserError, match=f"process 3 cannot write to workdir {tmp_path} .*{says}.*choose another"
    ) as error:
        write_probe_file(workdir, 3)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="process 3 cannot write"):
        on_all_processes(lambda: write_probe_file(workdir, 3))


def test_a_work_directory_that_cannot_be_made():
    with pytest.raises(
        UserError, match="workdir /proc/run cannot be written .*choose another --workdir"
    ):
        open_workdir("/proc/run", {})
