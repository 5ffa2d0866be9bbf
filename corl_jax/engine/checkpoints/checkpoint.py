"""Checkpoints: Orbax folders with the train state, the data position and a manifest.

In: a ``TrainState`` and a Grain iterator, whose position is the same on every process. Out:
``<folder>/<step>/{state,data,manifest}``, and both back bit for bit, on any number of processes.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import absl.logging
import grain
import orbax.checkpoint as ocp
from etils import epath

from corl_jax.core.checksums import dtype_and_shape
from corl_jax.core.errors import UserError, describe_error
from corl_jax.core.processes.agreement import on_first_process
from corl_jax.engine.checkpoints.abandoned_tasks import hidden_abandoned_tasks
from corl_jax.engine.checkpoints.inventory import DamagedCheckpoint, check_inventory
from corl_jax.engine.checkpoints.manifest import (
    MANIFEST_FILE,
    Manifest,
    RunIdentity,
    json_digest,
    make_manifest,
    params_digest,
    read_manifest,
)
from corl_jax.engine.checkpoints.step_folders import (
    SET_ASIDE,
    finish_step,
    make_clean_folder,
    saved_steps,
    set_aside,
    unfinished_folder,
)
from corl_jax.engine.remote_workdir import is_address
from corl_jax.engine.state import TrainState, named_arrays

# Orbax logs every save and restore at INFO.
absl.logging.set_verbosity(absl.logging.ERROR)

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
    """Saves and restores the steps of one run, synchronously. All processes make the same calls.

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
        self._identity, self._keep = identity, keep
        on_first_process(lambda: make_clean_folder(self.folder))

        # Synchronous saves, so that the next update can donate the state without any risk.
        self._orbax = ocp.Checkpointer(
            ocp.CompositeCheckpointHandler(
                state=ocp.StandardCheckpointHandler(),
                data=ocp.JsonCheckpointHandler(filename="position.json"),
                manifest=ocp.JsonCheckpointHandler(filename=MANIFEST_FILE.name),
            )
        )

    def save(self, step: int, state: TrainState, data: grain.DatasetIterator) -> None:
        """Writes ``state`` and the position of ``data`` as ``step``, unless that step is saved.

        Raises:
          UserError: the state is not finite, or it cannot be written. Earlier steps are kept.
        """
        if step in saved_steps(self.folder):
            return
        position = data.get_state()
        manifest = make_manifest(self._identity, step, state, position)

        # Orbax writes the three parts together, and raises errors of many kinds.
        folder = self.folder / str(step)
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            data=ocp.args.JsonSave(position),
            manifest=ocp.args.JsonSave(dataclasses.asdict(manifest)),
        )
        try:
            with hidden_abandoned_tasks():
                self._orbax.save(unfinished_folder(self.folder, step), args=args, force=True)
        except Exception as error:
            raise UserError(
                f"checkpoint {folder} cannot be written ({describe_error(error)}); "
                "earlier ones are kept. Free some space or permit writing there, then start the same "
                "command again"
            ) from error
        on_first_process(lambda: finish_step(self.folder, step, self._keep))

    def restore(
        self, abstract_state: TrainState, data: grain.DatasetIterator, fallback: bool = False
    ) -> Restored:
        """Reads the newest step, and moves ``data`` to its saved position.

        Args:
          abstract_state: from ``state.abstract``: shapes, dtypes and shardings to restore into.
          data: a new iterator over the same data; its position is changed in place.
          fallback: whether to go on from an earlier step where the newest one is damaged, which is
            then renamed.

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
                restored = self._read(step, abstract_state, data)
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

    def close(self) -> None:
        """Releases Orbax's threads."""
        self._orbax.close()

    def _read(self, step: int, abstract_state: TrainState, data: grain.DatasetIterator) -> Restored:
        """Reads one step; ``data`` moves only once everything is known to be as it was written."""
        # Refuse what does not fit before any array is read.
        folder = self.folder / str(step)
        check_inventory(folder)
        manifest = read_manifest(folder)
        self._check_compatible(folder, manifest, abstract_state)

        # Orbax raises errors of many kinds over a damaged file.
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract_state), data=ocp.args.JsonRestore()
        )
        try:
            with hidden_abandoned_tasks():
                restored = self._orbax.restore(folder, args=args)
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
        return Restored(step, restored.state, tuple(notes))

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
            tree = self._orbax.metadata(folder).item_metadata["state"].tree
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
