"""Checks before anything is compiled: the accelerator is free, and all processes of the run agree,
have the work directory to themselves, and can write to it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import jax

from corl_jax.core.checks.paths import user_path
from corl_jax.core.errors import UserError, describe_error
from corl_jax.core.files import name_write_errors
from corl_jax.core.processes.agreement import assert_same_on_all, on_all_processes
from corl_jax.core.provenance import versions
from corl_jax.engine.remote_workdir import is_address
from corl_jax.engine.workdir import Workdir

TPU_LOCK = Path("/tmp/libtpu_lockfile")
"""The file that libtpu locks while a process uses the chips of a host. When that process ends, the
file stays, unlocked."""

KERNEL_LOCKS = Path("/proc/locks")
"""The kernel's table of file locks."""

LOCK_FOLDER = Path("/tmp")
"""Where locks of work directories are. It does not depend on TMPDIR, which two runs on a host may
have set differently."""


def check_same_config(config: Mapping[str, Any]) -> None:
    """Refuses processes that would not take part in the same run.

    Raises:
      UserError: another config, other versions or another number of devices on some process.
    """
    if jax.device_count() != jax.local_device_count() * jax.process_count():
        raise UserError(
            f"all {jax.process_count()} processes must have the same number of devices; process "
            f"{jax.process_index()} has {jax.local_device_count()} of {jax.device_count()}"
        )
    assert_same_on_all("config", json.dumps(config, sort_keys=True))
    assert_same_on_all("set of versions", json.dumps(versions(), sort_keys=True))


@contextlib.contextmanager
def exclusive_workdir(workdir: str | Path) -> Iterator[None]:
    """Keeps other runs on this host out of a work directory while the block runs.

    Process 0 of the run holds the lock, on a file in ``LOCK_FOLDER``. The kernel releases it when
    that process ends, however it ends. A run on another host is not noticed.

    Args:
      workdir: folder or address; it need not exist.

    Raises:
      UserError: another process uses it, or holds the accelerator.
    """
    # This comes first, since to ask for the number of this process is to touch the devices.
    check_accelerator_free(jax.config.jax_platforms)  # type: ignore[attr-defined]

    path = str(workdir) if is_address(workdir) else str(user_path(workdir, "--workdir").resolve())
    name = hashlib.sha256(path.encode()).hexdigest()[:16]
    lock = LOCK_FOLDER / f"corl_jax_{os.getuid()}" / name
    with name_write_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("a")
    with file:
        on_all_processes(lambda: _acquire(file, lock, workdir))
        yield


def _acquire(file: TextIO, lock: Path, workdir: str | Path) -> None:
    """Locks ``file`` on process 0, or raises UserError with the number of the process that has it."""
    if jax.process_index() != 0:
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        has_table = KERNEL_LOCKS.exists()
        holder = lock_holder(KERNEL_LOCKS.read_text(), lock.stat()) if has_table else None
        raise UserError(
            f"workdir {workdir} is in use by another process of this host ({holder or 'unknown'}); "
            "wait for it or end it, or choose another --workdir"
        ) from None


def check_writable(workdir: Workdir) -> None:
    """Refuses a work directory that some process of the run cannot write to.

    Raises:
      UserError: on every process.
    """
    on_all_processes(lambda: write_probe_file(workdir, jax.process_index()))


def write_probe_file(workdir: Workdir, process: int) -> None:
    """Writes and removes a small file where ``process`` will write its part of a checkpoint.

    Raises:
      UserError: that failed: a read-only folder, a full disk, a bucket without permission.
    """
    file = workdir.checkpoints / f".probe_{process}"
    try:
        file.write_bytes(bytes(2**20))
        file.unlink()
    except Exception as error:
        raise UserError(
            f"process {process} cannot write to workdir {workdir} ({describe_error(error)}); make "
            "room there, or choose another --workdir"
        ) from error


def check_accelerator_free(
    platforms: str | None, lock: Path = TPU_LOCK, locks: Path = KERNEL_LOCKS
) -> None:
    """Refuses a TPU that another process of this host uses; to call before touching a device.

    Args:
      platforms: ``jax.config.jax_platforms``; where it names no TPU, nothing is checked.
      lock: the file that libtpu locks.
      locks: the kernel's table of locks.

    Raises:
      UserError: another process has the lock, or the file belongs to another user.
    """
    # The user may have told libtpu that several processes share the chips of a host.
    is_shared = os.environ.get("ALLOW_MULTIPLE_LIBTPU_LOAD", "") in ("1", "true")
    wants_tpu = not platforms or "tpu" in platforms.split(",")
    if not lock.exists() or not wants_tpu or is_shared:
        return

    holder = lock_holder(locks.read_text(), lock.stat())
    if holder not in (None, os.getpid()):
        raise UserError(
            f"the TPU of this host is held by process {holder} (it locks {lock}); wait for it or "
            f"end it with kill {holder}, then start again"
        )
    if holder is None and not os.access(lock, os.R_OK | os.W_OK):
        raise UserError(
            f"{lock} was left behind by another user, and libtpu must write it; remove it with "
            f"sudo rm {lock}"
        )


def lock_holder(table: str, file: os.stat_result) -> int | None:
    """The process that locks a file, or None.

    Args:
      table: text of ``/proc/locks``, with lines such as
        ``1: POSIX ADVISORY WRITE 1234 08:01:131 0 EOF``.
      file: the file's status.
    """
    name = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    for line in table.splitlines():
        # A process that waits for the lock has "->" as its second word, and so one word more.
        words = line.split()
        if len(words) > 5 and words[5] == name:
            return int(words[4])
    return None
