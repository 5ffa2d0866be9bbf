"""Seconds that a checkpoint holds the training loop for, and the memory of the host that it takes.

A loop as in training: save, sample for some seconds, update in place. The devices do nothing while
they "sample"; what is measured is whether the update, which reuses the arrays, must wait.
"""

from __future__ import annotations

import dataclasses
import resource
import time
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp

from corl_jax.bench.timing import LogLine
from corl_jax.core.checks.paths import check_writable
from corl_jax.core.errors import UserError
from corl_jax.core.types import Params
from corl_jax.engine.checkpoints.checkpoint import Checkpointer
from corl_jax.engine.checkpoints.manifest import RunIdentity
from corl_jax.engine.checkpoints.snapshot import free_memory
from corl_jax.engine.checkpoints.step_folders import saved_steps
from corl_jax.engine.optim import OptimConfig, make_optimizer
from corl_jax.engine.state import TrainState, create_state

ROWS, COLUMNS = 4096, 2048
"""Of a float32 array, 32 MiB: about a matrix of a model of a billion parameters."""


@dataclasses.dataclass(frozen=True)
class CheckpointOptions:
    """What ``corl bench checkpoint`` runs.

    Attributes:
      folder: new; gets the checkpoints.
      gigabytes: of the train state.
      frozen: share of it that is not trained.
      rollout_seconds: between the begin of a checkpoint and the next update.
      repeats: checkpoints.
    """

    folder: Path
    gigabytes: float
    frozen: float
    rollout_seconds: float
    repeats: int


def run_benchmark(options: CheckpointOptions, log: LogLine) -> dict[str, Any]:
    """Prints seconds and memory; returns them.

    Raises:
      UserError: the folder is not empty or cannot be written, or there is no memory for the state.
    """
    check_writable(options.folder, "the folder")
    if options.folder.exists() and any(options.folder.iterdir()):
        raise UserError(f"{options.folder} must be a new folder; got one with files. Name another")
    free = free_memory()
    if free is not None and free < options.gigabytes * 1e9 and jax.default_backend() == "cpu":
        raise UserError(
            f"--gigabytes must be at most the {free / 1e9:.1f} GB of memory that are free here; got "
            f"{options.gigabytes:g}. Measure a smaller state"
        )

    state = make_state(options)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e9
    state, update_seconds = time_update(state)
    memory = peak_memory()
    log(f"state of {size:.2f} GB, {memory:.2f} GB of host memory so far")

    checkpointer = Checkpointer(options.folder, RunIdentity("bench", {}, {}))
    data = iter(grain.MapDataset.range(4).to_iter_dataset())
    rows = []
    for number in range(1, options.repeats + 1):
        state, row = time_checkpoint(checkpointer, number, state, data, options, update_seconds)
        rows.append(row)
        log(f"checkpoint {number}: held {row['held']:.2f} s, written in {row['written']:.1f} s")
    checkpointer.close()

    values = {
        "against": "nothing",
        "state_gb": size,
        "frozen_gb": sum(leaf.nbytes for leaf in state.frozen.values()) / 1e9,
        "rollout_seconds": options.rollout_seconds,
        "update_seconds": update_seconds,
        "checkpoints": rows,
        "held_seconds": max(row["held"] for row in rows),
        "peak_host_gb": peak_memory(),
        "peak_host_gb_before": memory,
    }
    print(
        f"state {size:.2f} GB ({values['frozen_gb']:.2f} GB of it frozen)\n"
        f"held for at most {values['held_seconds']:.2f} s, "
        f"written within {max(row['written'] for row in rows):.1f} s\n"
        f"peak host memory {values['peak_host_gb']:.2f} GB, {memory:.2f} GB before"
    )
    return values


def make_state(options: CheckpointOptions) -> TrainState:
    """A train state of about so many bytes, in arrays of about the size of a model's."""
    arrays = options.gigabytes * 1e9 / (4 * ROWS * COLUMNS)
    # A trained parameter has two moments.
    trained = max(1, round(arrays * (1 - options.frozen) / 3))
    frozen = round(arrays * options.frozen)

    def params(name: str, count: int, key: jax.Array) -> Params:
        keys = jax.random.split(key, max(count, 1))
        return {
            f"{name}/{i}/kernel": jax.random.normal(keys[i], (ROWS, COLUMNS)) for i in range(count)
        }

    return create_state(
        params("layers", trained, jax.random.key(0)),
        params("vision", frozen, jax.random.key(1)),
        make_optimizer(OptimConfig(1e-3, 10)),
    )


def time_update(state: TrainState) -> tuple[TrainState, float]:
    """The state after two updates in place, and seconds of the second one."""
    for _ in range(2):
        begin = time.perf_counter()
        state = jax.block_until_ready(_update_in_place(state))
    return state, time.perf_counter() - begin


def time_checkpoint(
    checkpointer: Checkpointer,
    number: int,
    state: TrainState,
    data: grain.DatasetIterator,
    options: CheckpointOptions,
    update_seconds: float,
) -> tuple[TrainState, dict[str, float]]:
    """The state after a checkpoint and an update, and the seconds that they took."""
    begin = time.perf_counter()
    checkpointer.save(number, state, data)
    saved = time.perf_counter()

    # Where an update must copy what is not written, it takes longer than another one.
    written = 0.0
    while time.perf_counter() < saved + options.rollout_seconds:
        if not written and number in saved_steps(options.folder):
            written = time.perf_counter() - begin
        time.sleep(0.05)
    update_begin = time.perf_counter()
    checkpointer.release()
    state = jax.block_until_ready(_update_in_place(state))
    waited = max(0.0, time.perf_counter() - update_begin - update_seconds)

    checkpointer.wait()
    written = written or time.perf_counter() - begin
    return state, {"held": saved - begin + waited, "save": saved - begin, "written": written}


def _update_in_place(state: TrainState) -> TrainState:
    """Every array that an update changes, changed; as in training, frozen ones are not donated."""
    return _update(state.with_frozen({})).with_frozen(state.frozen)


@jax.jit(donate_argnums=0)
def _update(state: TrainState) -> TrainState:
    return jax.tree.map(lambda leaf: leaf + jnp.ones((), leaf.dtype), state)


def peak_memory() -> float:
    """The most memory that this process has had, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
