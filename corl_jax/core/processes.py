"""The processes of a run on several hosts: connecting, waiting for each other, comparing values.

With one process everything here returns at once. With several, all processes must make the same
calls, and get the same result or raise together, so that none waits for another that has stopped.
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
    """How this process finds the other processes of the run.

    Attributes:
      coordinator: ``host:port`` of process 0; "" where JAX finds all three values by itself (Cloud
        TPU, Slurm).
      processes: number of processes in the run.
      process: index of this process, from 0.
    """

    coordinator: str = ""
    processes: int = 0
    process: int = -1


def connect_processes(config: DistributedConfig) -> None:
    """Connects this process to the others; call it before anything touches a device.

    Raises:
      UserError: values that contradict each other, or processes that cannot be reached.
    """
    valid_index = config.processes >= 1 and 0 <= config.process < config.processes
    if config.coordinator and not valid_index:
        raise UserError(
            "--process must be from 0 to N - 1 with --processes=N of at least 1; "
            f"got --processes={config.processes} --process={config.process}"
        )

    # Without a coordinator JAX finds all three values, so none of them may be set.
    if not config.coordinator and config != DistributedConfig():
        raise UserError(
            "--processes and --process also need the coordinator; "
            "add --coordinator=HOST:PORT of process 0"
        )

    # Gloo carries the collectives between CPUs; accelerators ignore the setting.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        if config.coordinator:
            jax.distributed.initialize(config.coordinator, config.processes, config.process)
        else:
            jax.distributed.initialize()
    except (RuntimeError, ValueError) as error:
        first_line = str(error).splitlines()[0]
        raise UserError(
            f"the processes of the run did not find each other ({first_line}); "
            "check --coordinator, --processes and --process"
        ) from None


def on_first_process(action: Callable[[], T]) -> T | None:
    """Runs ``action`` on process 0 while the others wait.

    Returns:
      what ``action`` returns on process 0, None on the others.

    Raises:
      UserError: on every process, if ``action`` raised it on process 0.
    """
    if jax.process_count() == 1:
        return action()

    returned: T | None = None
    failure: UserError | None = None
    if jax.process_index() == 0:
        try:
            returned = action()
        except UserError as error:
            failure = error

    # The other processes learn of the failure here and do not wait for process 0 in vain.
    if multihost_utils.broadcast_one_to_all(np.asarray(failure is not None)):
        raise failure or UserError("process 0 stopped; its error message gives the reason")
    return returned


def on_all_processes(action: Callable[[], None]) -> None:
    """Runs ``action`` on every process; if it fails on one of them, every process raises.

    Raises:
      UserError: on every process, if ``action`` raised it on some.
    """
    # The error is kept until every process has run the action.
    failure: UserError | None = None
    try:
        action()
    except UserError as error:
        failure = error

    # Every process learns which of them failed.
    if jax.process_count() == 1:
        failed = np.asarray([failure is not None])
    else:
        failed = np.asarray(multihost_utils.process_allgather(np.asarray(failure is not None)))

    # A process that did not fail itself names those that did.
    if failed.any():
        indices = ", ".join(map(str, np.flatnonzero(failed)))
        raise failure or UserError(
            f"process {indices} of {jax.process_count()} stopped; "
            "its error message gives the reason"
        )


def assert_same_on_all(label: str, text: str) -> None:
    """Checks that ``text`` is the same on every process.

    Args:
      label: what the text is, for the error message.
      text: compared by its hash, so it may be long.

    Raises:
      UserError: on every process; the message names those that differ from process 0.
    """
    if jax.process_count() == 1:
        return

    # Only the hashes are exchanged, since collectives need arrays of one shape.
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    digests = np.asarray(multihost_utils.process_allgather(digest))
    differing = np.flatnonzero((digests != digests[0]).any(-1))
    if differing.size:
        indices = ", ".join(map(str, differing))
        raise UserError(
            f"process {indices} of {jax.process_count()} has another {label} than process 0; "
            "start the same command with the same checkout on every host"
        )
