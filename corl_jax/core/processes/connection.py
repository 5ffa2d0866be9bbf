"""Connects the processes of a run on several hosts."""

from __future__ import annotations

import dataclasses

import jax

from corl_jax.core.errors import UserError
from corl_jax.core.processes.watch import start_watch


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

    From then on the processes watch each other, see ``core.processes.watch``.

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
    start_watch()
