"""Writes steps in a thread beside the loop: digests, arrays, the manifest, and the final name.

In: a train state that the next update donates. Out: a complete step folder a while later, and the
moment from which the update may begin.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from corl_jax.core.checksums import Checksum, checksums
from corl_jax.core.errors import UserError, describe_error
from corl_jax.core.processes.background import BackgroundCall, BackgroundExchange
from corl_jax.engine.checkpoints.abandoned_tasks import hidden_abandoned_tasks
from corl_jax.engine.checkpoints.frozen_params import FROZEN, frozen_name
from corl_jax.engine.checkpoints.manifest import MANIFEST_FILE, RunIdentity, make_manifest
from corl_jax.engine.checkpoints.snapshot import Snapshot, take_snapshot
from corl_jax.engine.checkpoints.step_folders import (
    finish_folder,
    finish_step,
    is_frozen_folder_whole,
    unfinished_folder,
)
from corl_jax.engine.state import TrainState, named_arrays

MIN_GB_IN_FLIGHT = 2
"""Gigabytes of arrays that are encoded and written at the same time, unless one is larger. Orbax's
default, 96, is a second copy of a state in the memory of most hosts."""


def make_orbax_checkpointer(gb_in_flight: int = MIN_GB_IN_FLIGHT) -> ocp.Checkpointer:
    """Orbax's writer and reader of step folders.

    It is synchronous, within a thread of ours: Orbax's asynchronous one copies all arrays to the host
    before it returns.

    Args:
      gb_in_flight: see ``gb_in_flight_of``; a reader writes nothing.
    """
    # With their processes named, Orbax's barriers are those of the store and none of the devices,
    # which belong to the main thread.
    several = jax.process_count() > 1
    options = ocp.options.MultiprocessingOptions(
        active_processes=set(range(jax.process_count())) if several else None,
        barrier_sync_key_prefix="corl_jax" if several else None,
    )
    return ocp.Checkpointer(
        ocp.CompositeCheckpointHandler(
            composite_options=ocp.CompositeOptions(multiprocessing_options=options),
            state=ocp.StandardCheckpointHandler(
                save_concurrent_gb=gb_in_flight, multiprocessing_options=options
            ),
            data=ocp.JsonCheckpointHandler(
                filename="position.json", multiprocessing_options=options
            ),
            manifest=ocp.JsonCheckpointHandler(
                filename=MANIFEST_FILE.name, multiprocessing_options=options
            ),
        ),
        multiprocessing_options=options,
    )


def gb_in_flight_of(state: TrainState) -> int:
    """Gigabytes that may be written at the same time: Orbax refuses less than the largest shard."""
    largest = max(
        shard.data.nbytes for leaf in jax.tree.leaves(state) for shard in leaf.addressable_shards
    )
    return max(MIN_GB_IN_FLIGHT, largest // 10**9 + 1)


class StepWriter:
    """Writes one step after the other, each within one thread."""

    def __init__(
        self,
        folder: Path | epath.Path,
        identity: RunIdentity,
        keep: int,
    ):
        # Made for the first state, whose size its limit depends on.
        self._orbax: ocp.Checkpointer | None = None
        self._folder = folder
        self._identity, self._keep = identity, keep
        # Checksums of the frozen arrays, which are the same at every step; and their folder.
        self._frozen_sums: dict[str, Checksum] = {}
        self._frozen_arrays: dict[str, jax.Array] = {}
        self._frozen_folder: str | None = None

    def write(self, step: int, state: TrainState, position: Any) -> None:
        """Writes a step completely.

        Raises:
          UserError: the state is not finite, or the step cannot be written.
        """
        orbax = self._orbax = self._orbax or make_orbax_checkpointer(gb_in_flight_of(state))
        exchange = BackgroundExchange()
        sums = self._checksums(state, exchange)
        frozen = frozen_name({name: checksum.digest for name, checksum in sums.items()})
        manifest = make_manifest(self._identity, step, state, position, sums, frozen)

        if frozen is not None and frozen != self._frozen_folder:
            is_whole = exchange.on_first_process(
                lambda: "whole" if is_frozen_folder_whole(self._folder, frozen) else ""
            )
            if not is_whole:
                self._write_frozen(orbax, frozen, step, state, exchange)
            self._frozen_folder = frozen

        # Orbax writes the three parts together.
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state.with_frozen({})),
            data=ocp.args.JsonSave(position),
            manifest=ocp.args.JsonSave(dataclasses.asdict(manifest)),
        )
        self._save(orbax, step, step, args)

        def finish() -> str:
            finish_step(self._folder, step, self._keep)
            return ""

        exchange.on_first_process(finish)

    def close(self) -> None:
        """Releases Orbax's threads."""
        if self._orbax is not None:
            self._orbax.close()

    def _checksums(self, state: TrainState, exchange: BackgroundExchange) -> dict[str, Checksum]:
        """The checksums of all arrays of ``state``, in their order."""
        arrays = named_arrays(state)
        frozen = {name: leaf for name, leaf in arrays.items() if name.startswith(f"{FROZEN} ")}
        known = self._frozen_arrays
        is_known = known.keys() == frozen.keys() and all(
            leaf is known[name] for name, leaf in frozen.items()
        )
        if not is_known:
            self._frozen_sums = checksums(frozen, exchange.texts)
            self._frozen_arrays = frozen

        changing = {name: leaf for name, leaf in arrays.items() if name not in frozen}
        sums = self._frozen_sums | checksums(changing, exchange.texts)
        return {name: sums[name] for name in arrays}

    def _write_frozen(
        self,
        orbax: ocp.Checkpointer,
        name: str,
        step: int,
        state: TrainState,
        exchange: BackgroundExchange,
    ) -> None:
        """Writes the folder of the frozen parameters, in place of a damaged one."""
        args = ocp.args.Composite(state=ocp.args.StandardSave({FROZEN: state.frozen}))
        self._save(orbax, step, name, args)

        def finish() -> str:
            damaged = epath.Path(self._folder / name)
            if unfinished_folder(self._folder, name) != damaged and damaged.exists():
                damaged.rmtree()
            finish_folder(self._folder, name)
            return ""

        exchange.on_first_process(finish)

    def _save(
        self, orbax: ocp.Checkpointer, step: int, name: int | str, args: ocp.args.Composite
    ) -> None:
        """Writes an unfinished folder.

        Raises:
          UserError: it cannot be written.
        """
        # Orbax raises errors of many kinds.
        try:
            with hidden_abandoned_tasks():
                orbax.save(unfinished_folder(self._folder, name), args=args, force=True)
        except Exception as error:
            raise UserError(
                f"checkpoint {self._folder / str(step)} cannot be written "
                f"({describe_error(error)}); earlier ones are kept. Free some space or permit "
                "writing there, then start the same command again"
            ) from error


class Saving:
    """A step that is being written.

    Args:
      writer: of the run; no other step may be under way.
      step, state, position: what to write.

    Attributes:
      call: the thread.
    """

    def __init__(self, writer: StepWriter, step: int, state: TrainState, position: Any):
        self._is_free = threading.Event()
        self._snapshot: Snapshot | None = None
        # Without memory for a copy the state itself is written, and the update waits.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._snapshot = take_snapshot(state)

        def write() -> None:
            try:
                writer.write(step, self._kept(state), position)
            finally:
                self._snapshot = None
                self._is_free.set()

        self.call = BackgroundCall(f"checkpoint {step}", write)

    def release(self) -> None:
        """Returns once the state that was passed may be donated."""
        self._is_free.wait()
        snapshot = self._snapshot
        if snapshot is not None and not snapshot.fits_beside_update():
            self.call.join()

    def _kept(self, state: TrainState) -> TrainState:
        """A state that stays, whatever happens to ``state`` once it is free."""
        if self._snapshot is not None:
            try:
                self._snapshot.arrive()
            except jax.errors.JaxRuntimeError:
                self._snapshot = None  # likewise
            else:
                self._is_free.set()
                return self._snapshot.state
        return state
