"""Checkpoints: Orbax folders with the train state, the data position and a manifest.

In: a ``TrainState`` and a Grain iterator, whose position is the same on every process. Out:
``<folder>/<step>/{state,data,manifest}`` and ``<folder>/frozen-*`` with what no step changes, and
both back bit for bit, on any number of processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import grain
import orbax.checkpoint as ocp
from etils import epath

from corl_jax.core.checksums import checksums, dtype_and_shape
from corl_jax.core.errors import UserError, describe_error
from corl_jax.core.processes.agreement import any_process, on_all_processes, on_first_process
from corl_jax.core.types import Params
from corl_jax.engine.checkpoints.abandoned_tasks import hidden_abandoned_tasks
from corl_jax.engine.checkpoints.frozen_params import FROZEN, read_frozen
from corl_jax.engine.checkpoints.inventory import DamagedCheckpoint, check_inventory
from corl_jax.engine.checkpoints.manifest import (
    Manifest,
    RunIdentity,
    json_digest,
    params_digest,
    read_manifest,
)
from corl_jax.engine.checkpoints.step_folders import (
    SET_ASIDE,
    make_clean_folder,
    saved_steps,
    set_aside,
)
from corl_jax.engine.checkpoints.writing import Saving, StepWriter, make_orbax_checkpointer
from corl_jax.engine.remote_workdir import is_address
from corl_jax.engine.state import TrainState, named_arrays

FALLBACK_FLAG = "--config.resume.fallback=True"


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint that was read.

    Attributes:
      step: steps that were done.
      state: the state after them, bit for bit as it was saved.
      notes: sentences for the user: what is lost, what could not be compared.
    """

    step: int
    state: TrainState
    notes: tuple[str, ...] = ()


class Checkpointer:
    """Saves and restores the steps of one run. All processes make the same calls.

    A step is written by a thread beside the loop, one at a time. Its error is raised by the next
    ``save``, ``check``, ``wait`` or ``close``.

    Args:
      folder: created if it is missing; may be in a bucket. What a killed run left half-written
        there is deleted.
      identity: written into every manifest. Checkpoints of another stage are refused.
      keep: how many of the newest steps stay.
    """

    def __init__(self, folder: Path | epath.Path, identity: RunIdentity, keep: int = 2):
        if keep < 1:
            raise UserError(
                f"the number of checkpoints to keep must be at least 1; got keep={keep}"
            )
        self.folder = folder if is_address(folder) else folder.resolve()
        self._identity = identity
        on_first_process(lambda: make_clean_folder(self.folder))
        self._reader = make_orbax_checkpointer()
        self._writer = StepWriter(self.folder, identity, keep)
        self._saving: Saving | None = None

    def save(self, step: int, state: TrainState, data: grain.DatasetIterator) -> None:
        """Begins to write ``state`` and the position of ``data`` as ``step``, unless it is saved.

        Call ``release`` before anything donates the arrays of ``state``.

        Raises:
          UserError: the step before it could not be written.
        """
        self.wait()
        if step not in saved_steps(self.folder):
            self._saving = Saving(self._writer, step, state, data.get_state())

    def release(self) -> None:
        """Returns once the state that is being saved may be donated."""
        if self._saving is not None:
            self._saving.release()

    def check(self) -> None:
        """Raises what the thread has raised so far, on every process; does not wait for it.

        Raises:
          UserError: the state is not finite, or it cannot be written. Earlier steps are kept.
        """
        if self._saving is None:
            return
        saving = self._saving
        with self._without_waiting():
            on_all_processes(saving.call.raise_error)
        if not any_process(not saving.call.has_ended):
            self._saving = None

    def wait(self) -> None:
        """Waits until the step that is being written is complete.

        Raises:
          UserError: see ``check``.
        """
        if self._saving is None:
            return
        saving = self._saving
        with self._without_waiting():
            on_all_processes(saving.call.wait)
        self._saving = None

    @contextlib.contextmanager
    def _without_waiting(self) -> Iterator[None]:
        """After an error nobody waits for a thread, which may wait for another process in vain."""
        saving, self._saving = self._saving, None
        yield
        self._saving = saving

    def restore(
        self,
        abstract_state: TrainState,
        data: grain.DatasetIterator,
        fallback: bool = False,
        frozen: Params | None = None,
    ) -> Restored:
        """Reads the newest step, and moves ``data`` to its saved position.

        Args:
          abstract_state: from ``state.abstract``: shapes, dtypes and shardings to restore into.
          data: a new iterator over the same data; its position is changed in place.
          fallback: whether to go on from an earlier step where the newest one is damaged, which is
            then renamed.
          frozen: frozen parameters of a new state. Where they have the digests of the saved ones
            they are taken, and those are not read.

        Raises:
          UserError: no checkpoint, one of another stage or another model, or a damaged one. Nothing
            is changed on disk.
        """
        steps = saved_steps(self.folder)
        if not steps:
            raise UserError(f"{self.folder} has no checkpoint; start the run without resuming")

        # Newest first; without ``fallback`` no further than that.
        damaged: dict[int, DamagedCheckpoint] = {}
        for step in reversed(steps):
            try:
                restored = self._read(step, abstract_state, data, frozen or {})
            except DamagedCheckpoint as error:
                damaged[step] = error
                if fallback:
                    continue
                raise self._with_advice(step, error) from error
            notes = [self._pass_over(number, error) for number, error in damaged.items()]
            if damaged:
                notes.append(f"steps {step + 1} to {steps[-1]} are lost and trained again")
            return dataclasses.replace(restored, notes=(*notes, *restored.notes))

        raise UserError(
            f"all checkpoints in {self.folder} are damaged ({damaged[steps[-1]].reason}); "
            "start the run afresh in another --workdir"
        )

    def close(self, wait: bool = True) -> None:
        """Waits for the step that is being written, and releases Orbax's threads.

        Other processes need not call this at the same time.

        Args:
          wait: False leaves a step that is being written unfinished.

        Raises:
          UserError: see ``check``.
        """
        saving, self._saving = self._saving, None
        if saving is not None and not wait:
            return
        try:
            if saving is not None:
                saving.call.wait()
        finally:
            self._reader.close()
            self._writer.close()

    def _read(
        self,
        step: int,
        abstract_state: TrainState,
        data: grain.DatasetIterator,
        frozen: Params,
    ) -> Restored:
        """Reads one step; ``data`` moves only once everything is known to be as it was written."""
        # Refuse what does not fit before any array is read.
        folder = self.folder / str(step)
        check_inventory(folder)
        manifest = read_manifest(folder)
        self._check_compatible(folder, manifest, abstract_state)

        # What is beside the step folder, and what is in it.
        beside = abstract_state.frozen if manifest.frozen else {}
        if beside:
            frozen = self._read_frozen(folder, manifest, abstract_state.frozen, frozen)
            abstract_state = abstract_state.with_frozen({})

        # Orbax raises errors of many kinds over a damaged file.
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract_state), data=ocp.args.JsonRestore()
        )
        try:
            with hidden_abandoned_tasks():
                restored = self._reader.restore(folder, args=args)
        except Exception as error:
            raise DamagedCheckpoint(folder, describe_error(error)) from error

        manifest.check_arrays(folder, named_arrays(restored.state))
        if manifest.data_digest not in (None, json_digest(restored.data)):
            raise DamagedCheckpoint(folder, "the position in the data is not as it was written")

        # Older versions had a digest of the parameters alone, and none on several hosts.
        notes = []
        if manifest.arrays is None:
            if manifest.params_digest not in (None, params_digest(restored.state)):
                raise DamagedCheckpoint(folder, "its parameters are not as they were written")
            notes.append(
                f"checkpoint {step} is of an older version, without digests of moments, algorithm "
                "state, data position, records and init_from: whether they changed is not checked"
            )
        try:
            data.set_state(restored.data)
        except UserError:  # it fits, but not this run
            raise
        except Exception as error:
            raise DamagedCheckpoint(folder, describe_error(error)) from error
        state = restored.state.with_frozen(frozen) if beside else restored.state
        return Restored(step, state, tuple(notes))

    def _read_frozen(
        self, folder: Path | epath.Path, manifest: Manifest, shapes: Params, frozen: Params
    ) -> Params:
        """``frozen`` where it has the digests of the saved parameters, else these."""
        named = {f"{FROZEN} {name}": leaf for name, leaf in frozen.items()}
        sums = {name: checksum.digest for name, checksum in checksums(named).items()}
        saved = manifest.arrays or {}
        if sums == {name: text for name, text in saved.items() if name.startswith(f"{FROZEN} ")}:
            return frozen

        read = read_frozen(folder, manifest, {FROZEN: shapes})[FROZEN]
        manifest.check_arrays(folder, {f"{FROZEN} {name}": leaf for name, leaf in read.items()})
        return read

    def _check_compatible(
        self, folder: Path | epath.Path, manifest: Manifest, abstract_state: TrainState
    ) -> None:
        """Refuses a checkpoint of another stage or of other shapes."""
        # Another stage has another meaning for equal shapes.
        if manifest.stage != self._identity.stage:
            raise UserError(
                f"{folder} was written by stage {manifest.stage!r}, not {self._identity.stage!r}; "
                "choose another --workdir, or start from its parameters with init_from"
            )

        # The first name that differs is enough to recognise the other model.
        saved = self._saved_arrays(folder, manifest)
        expected = {
            name: dtype_and_shape(leaf) for name, leaf in named_arrays(abstract_state).items()
        }
        for name in sorted(saved.keys() | expected.keys()):
            if saved.get(name) != expected.get(name):
                raise UserError(
                    f"{folder} does not fit this run: {name} is {saved.get(name, 'absent')} in the "
                    f"checkpoint and {expected.get(name, 'absent')} in this run; choose another "
                    "--workdir or the config that wrote it"
                )

    def _saved_arrays(self, folder: Path | epath.Path, manifest: Manifest) -> dict[str, str]:
        """Dtype and shape of every array in a checkpoint, by name."""
        if manifest.arrays is not None:
            return {name: text.partition(" ")[0] for name, text in manifest.arrays.items()}

        # An older version: Orbax's own metadata. Leaves without a shape are None.
        try:
            tree = self._reader.metadata(folder).item_metadata["state"].tree
            leaves = ocp.tree.to_flat_dict(tree, sep=" ")
            return {
                name: dtype_and_shape(leaf)
                for name, leaf in leaves.items()
                if hasattr(leaf, "shape")
            }
        except Exception as error:
            raise DamagedCheckpoint(folder, describe_error(error)) from error

    def _pass_over(self, step: int, error: DamagedCheckpoint) -> str:
        """Sets a damaged step aside; a sentence that says so."""
        on_first_process(lambda: set_aside(self.folder, step))
        return f"checkpoint {step} is damaged ({error.reason}) and is now called {step}{SET_ASIDE}"

    def _with_advice(self, step: int, error: DamagedCheckpoint) -> UserError:
        """The error with what can be done."""
        earlier = [saved for saved in saved_steps(self.folder) if saved < step]
        advice = "delete that folder to start the run afresh"
        if earlier:
            advice = f"add {FALLBACK_FLAG} or delete that folder to resume from step {earlier[-1]}"
        return DamagedCheckpoint(self.folder / str(step), error.reason, advice)
