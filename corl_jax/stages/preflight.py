"""What is checked before anything is compiled: the accelerator is free, the processes belong together and can write.

In: the config, the work directory, files of the system. Out: nothing, or an error that says what to do.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from corl_jax.core.errors import UserError, describe_error
from corl_jax.core.processes import assert_same_on_all, on_all_processes
from corl_jax.core.provenance import versions
from corl_jax.engine.remote_workdir import is_address
from corl_jax.engine.workdir import Workdir

LOCK = Path("/tmp/libtpu_lockfile")
"""What libtpu locks while a process holds the chips of a host; it stays behind, unlocked, when that process ends."""
LOCKS = Path("/proc/locks")


def check_same_config(config: Mapping[str, Any]) -> None:
    """Refuses processes that would not take part in the same run.

    Raises:
      UserError: another config, another version or another number of devices on some process.
    """
    if jax.device_count() != jax.local_device_count() * jax.process_count():
        raise UserError(
            f"process {jax.process_index()} has {jax.local_device_count()} of {jax.device_count()} devices; expected "
            f"the same number on each of {jax.process_count()} processes"
        )
    assert_same_on_all("config", json.dumps(config, sort_keys=True))
    assert_same_on_all("set of versions", json.dumps(versions(), sort_keys=True))


@contextlib.contextmanager
def exclusive_workdir(workdir: str | Path) -> Iterator[None]:
    """Keeps other runs on this host out of a work directory while the block runs.

    Process 0 of the run holds the lock, a file in the folder for temporary files; the kernel releases it when that
    process ends, however it ends. A run on another host is not noticed.

    Args:
      workdir: folder or address; it need not exist.

    Raises:
      UserError: another process is in it, or holds the accelerator.
    """
    # first, since to ask for the number of this process is to touch the devices
    check_accelerator_free(jax.config.jax_platforms)  # type: ignore[attr-defined]
    place = str(workdir) if is_address(workdir) else str(Path(workdir).expanduser().resolve())
    name = hashlib.sha256(place.encode()).hexdigest()[:16]
    lock = Path(tempfile.gettempdir()) / f"corl_jax_{os.getuid()}" / name
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:

        def take() -> None:
            if jax.process_index() == 0:
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except (BlockingIOError, PermissionError):
                    holder = lock_holder(LOCKS.read_text(), lock.stat()) if LOCKS.exists() else None
                    raise UserError(
                        f"workdir {workdir} is in use by another process of this host ({holder or 'unknown'}); wait "
                        "for it or end it, or choose another --workdir"
                    ) from None

        on_all_processes(take)
        yield


def check_writable(workdir: Workdir) -> None:
    """Refuses a work directory that some process of the run cannot write to.

    Raises:
      UserError: on every process.
    """
    on_all_processes(lambda: write_probe_file(workdir, jax.process_index()))


def write_probe_file(workdir: Workdir, process: int) -> None:
    """Writes a little where ``process`` will write its part of a checkpoint, and removes it.

    Raises:
      UserError: that failed: a folder that is read-only here, a full disk, a bucket without permission.
    """
    file = workdir.checkpoints / f".probe_{process}"
    try:
        file.write_bytes(bytes(2**20))
        file.unlink()
    except Exception as error:
        raise UserError(
            f"process {process} cannot write to workdir {workdir} ({describe_error(error)}); make room there, or choose "
            "another --workdir"
        ) from error


def check_accelerator_free(platforms: str | None, lock: Path = LOCK, locks: Path = LOCKS) -> None:
    """Refuses a TPU that another process of this host holds; call it before anything touches a device.

    Args:
      platforms: ``jax.config.jax_platforms``; where it names no TPU, nothing is looked at.
      lock: the file that libtpu locks.
      locks: the kernel's table of locks.

    Raises:
      UserError: the lock is held by another process, or belongs to another user and so cannot be taken.
    """
    if not lock.exists() or (platforms and "tpu" not in platforms.split(",")) or _shared():
        return
    holder = lock_holder(locks.read_text(), lock.stat())
    if holder not in (None, os.getpid()):
        raise UserError(
            f"the TPU of this host is held by process {holder} (it locks {lock}); wait for it or end it with "
            f"kill {holder}, then start again"
        )
    if holder is None and not os.access(lock, os.R_OK | os.W_OK):
        raise UserError(
            f"{lock} was left behind by another user, and libtpu must write it; remove it with sudo rm {lock}"
        )


def lock_holder(table: str, file: os.stat_result) -> int | None:
    """The process that locks a file, or None.

    Args:
      table: text of ``/proc/locks``, with lines such as ``1: POSIX ADVISORY WRITE 1234 08:01:131 0 EOF``.
      file: the file's status.
    """
    name = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    for line in table.splitlines():
        words = line.split()
        if len(words) > 5 and words[5] == name:  # a process that waits has "->" as its second word
            return int(words[4])
    return None


def _shared() -> bool:
    """Whether the user told libtpu that several processes share the chips of a host."""
    return os.environ.get("ALLOW_MULTIPLE_LIBTPU_LOAD", "") in ("1", "true")
