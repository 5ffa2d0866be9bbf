"""The processes of a run on several hosts: how they find each other, wait for each other and agree.

In: addresses, actions, texts. Out: nothing on one process; elsewhere the same answer, or the same error, on all.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from corl_jax.core.errors import UserError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class DistributedConfig:
    """Where the processes of a run are.

    Attributes:
      coordinator: ``host:port`` of process 0; "" where JAX finds out all three by itself (Cloud TPU, Slurm).
      processes: of the run.
      process: number of this one, from 0.
    """

    coordinator: str = ""
    processes: int = 0
    process: int = -1


def connect_processes(hosts: DistributedConfig) -> None:
    """Joins this process to the others; call it before anything touches a device.

    Raises:
      UserError: values that do not go together, or the others cannot be reached.
    """
    if hosts.coordinator and (hosts.processes < 1 or not 0 <= hosts.process < hosts.processes):
        raise UserError(
            f"--processes={hosts.processes} --process={hosts.process} is no place among processes; expected "
            "--processes=N and --process from 0 to N - 1"
        )
    if not hosts.coordinator and hosts != DistributedConfig():
        raise UserError(
            "--processes and --process lack the coordinator; expected --coordinator=HOST:PORT of process 0"
        )
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        if hosts.coordinator:
            jax.distributed.initialize(hosts.coordinator, hosts.processes, hosts.process)
        else:
            jax.distributed.initialize()
    except (RuntimeError, ValueError) as error:
        said = str(error).splitlines()[0]
        raise UserError(
            f"the processes of the run did not find each other ({said}); check the flags"
        ) from None


def on_first_process(action: Callable[[], T]) -> T | None:
    """Runs ``action`` on process 0 while the others wait, for whom it gives None.

    Raises:
      UserError: on every process, where ``action`` raised it on the first.
    """
    if jax.process_count() == 1:
        return action()
    out, refused = None, None
    if jax.process_index() == 0:
        try:
            out = action()
        except UserError as error:
            refused = error
    if multihost_utils.broadcast_one_to_all(np.asarray(refused is not None)):
        raise refused or UserError("process 0 refused to go on; its message says why")
    return out


def on_all_processes(action: Callable[[], None]) -> None:
    """Runs ``action`` on every process; what goes wrong on one is an error on all, so that none waits for it.

    Raises:
      UserError: on every process, where ``action`` raised it on some.
    """
    refused = None
    try:
        action()
    except UserError as error:
        refused = error
    if jax.process_count() == 1:
        flags = np.asarray([refused is not None])
    else:
        flags = np.asarray(multihost_utils.process_allgather(np.asarray(refused is not None)))
    if flags.any():
        others = ", ".join(map(str, np.flatnonzero(flags)))
        raise refused or UserError(
            f"process {others} of {jax.process_count()} cannot go on; its message says why"
        )


def assert_same_on_all(what: str, text: str) -> None:
    """Makes sure that ``text`` is the same on every process.

    Raises:
      UserError: on every process, naming those that differ from process 0.
    """
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    digests = np.asarray(multihost_utils.process_allgather(digest))
    differ = np.flatnonzero((digests != digests[0]).any(-1))
    if differ.size:
        raise UserError(
            f"process {', '.join(map(str, differ))} of {jax.process_count()} has another {what} than process 0; "
            "start the same command with the same checkout on every host"
        )
