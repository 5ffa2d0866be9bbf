"""Checkpoints: Orbax folders with the train state, the data position and a manifest.

In: a ``TrainState`` and a Grain iterator, whose position is the same on every process. Out:
``<folder>/<step>/{state,data,manifest}``, and both back bit for bit, on any number of processes.
A step folder gets its number only once it is complete (in a bucket: a file that marks it so). A run
that is killed while writing therefore leaves nothing that looks like a checkpoint.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import absl.logging
import grain
import jax
import orbax.checkpoint as ocp
from etils import epath

from corl_jax.core.errors import UserError, describe_error
from corl_jax.engine.checkpoints.manifest import (
    MANIFEST_FILE,
    RunIdentity,
    find_damage,
    make_manifest,
    params_digest,
    read_manifest,
    write_inventory,
)
from corl_jax.engine.remote_workdir import CHECKPOINTS, is_address
from corl_jax.engine.state import TrainState

# Orbax logs every save and restore at INFO.
absl.logging.set_verbosity(absl.logging.ERROR)

# Name of an array to its shape and dtype.
ShapesByName = dict[str, tuple[tuple[int, ...], str]]


def saved_steps(folder: Path | epath.Path) -> list[int]:
    """Numbers of the complete step folders under ``folder``, ascending; empty if there is none."""
    if not folder.is_dir():
        return []
    # Orbax renames a folder to its number at the end, or marks it as complete in a bucket.
    numbered = [path for path in folder.iterdir() if path.name.isdigit() and path.is_dir()]
    return sorted(
        int(path.name) for path in numbered if ocp.utils.is_checkpoint_finalized(epath.Path(path))
    )


def latest_step(workdir: str | Path | epath.Path) -> int | None:
    """The newest step that is saved in a work directory, or None."""
    steps = saved_steps(epath.Path(workdir) / CHECKPOINTS)
    return steps[-1] if steps else None


class Checkpointer:
    """Saves and restores the steps of one run, synchronously.

    Args:
      folder: created if it is missing; may be in a bucket.
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

        # Synchronous saves, so that the next update can donate the state without any risk.
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, enable_async_checkpointing=False, cleanup_tmp_directories=True
            ),
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "data": ocp.JsonCheckpointHandler(filename="position.json"),
                "manifest": ocp.JsonCheckpointHandler(filename=MANIFEST_FILE.name),
            },
        )

    def save(self, step: int, state: TrainState, data: grain.DatasetIterator) -> None:
        """Writes ``state`` and the position of ``data`` as ``step``, unless that step is saved."""
        if step in saved_steps(self.folder):
            return

        # Orbax writes the three parts together.
        manifest = dataclasses.asdict(make_manifest(self._identity, step, state))
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                data=ocp.args.JsonSave(data.get_state()),
                manifest=ocp.args.JsonSave(manifest),
            ),
        )

        # Objects in a bucket are complete or absent, so they need no inventory.
        if jax.process_index() == 0 and not is_address(self.folder):
            write_inventory(Path(self.folder) / str(step))

    def restore(
        self, abstract_state: TrainState, data: grain.DatasetIterator
    ) -> tuple[int, TrainState]:
        """Reads the newest step, and moves ``data`` to its saved position.

        Args:
          abstract_state: from ``state.abstract``: shapes, dtypes and shardings to restore into.
          data: a new iterator over the same data; its position is changed in place.

        Returns:
          the step, and the state bit for bit as it was saved.

        Raises:
          UserError: no checkpoint, one of another stage or another model, or a damaged one. Nothing
            is changed on disk.
        """
        # Refuse what does not fit before anything is read.
        steps = saved_steps(self.folder)
        if not steps:
            raise UserError(f"{self.folder} has no checkpoint; start the run without resuming")
        step = steps[-1]
        self._check_compatible(step, abstract_state)

        # Orbax raises errors of many kinds over a damaged file.
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(abstract_state), data=ocp.args.JsonRestore()
                ),
            )
            data.set_state(restored.data)
        except Exception as error:
            raise self._damage_error(step, describe_error(error)) from error

        # Several hosts hold only parts of the parameters, and compute no digest.
        saved_digest = read_manifest(self.folder / str(step)).params_digest
        if saved_digest is not None and params_digest(restored.state) not in (saved_digest, None):
            raise self._damage_error(step, "its parameters do not match the digest in its manifest")
        return step, restored.state

    def close(self) -> None:
        """Releases the manager's threads."""
        self._manager.close()

    def _check_compatible(self, step: int, abstract_state: TrainState) -> None:
        """Refuses a checkpoint of another stage or of other shapes before any array is read."""
        folder = self.folder / str(step)
        if damage := find_damage(folder):
            raise self._damage_error(step, damage)

        # Only small metadata are read here.
        try:
            stage = read_manifest(folder).stage
            saved_tree = ocp.tree.to_flat_dict(
                self._manager.item_metadata(step).state.tree, sep=" "
            )
        except Exception as error:
            raise self._damage_error(step, describe_error(error)) from error

        # Another stage has another meaning for equal shapes.
        if stage != self._identity.stage:
            raise UserError(
                f"{folder} was written by stage {stage!r}, not {self._identity.stage!r}; choose "
                "another --workdir, or start from its parameters with init_from"
            )

        # Leaves without a shape are None, which have nothing to compare.
        saved = {
            name: (tuple(leaf.shape), str(leaf.dtype))
            for name, leaf in saved_tree.items()
            if hasattr(leaf, "shape")
        }

        # The first name that differs is enough to recognise the other model.
        expected = _shapes_by_name(abstract_state)
        for name in sorted(saved.keys() | expected.keys()):
            if saved.get(name) != expected.get(name):
                raise UserError(
                    f"{folder} does not fit this run: {name} is {saved.get(name, 'absent')} in the "
                    f"checkpoint and {expected.get(name, 'absent')} in this run; choose another "
                    "--workdir or the config that wrote it"
                )

    def _damage_error(self, step: int, reason: str) -> UserError:
        # After this folder is deleted, the run resumes from the step before it.
        earlier = [saved for saved in saved_steps(self.folder) if saved < step]
        consequence = f"resume from step {earlier[-1]}" if earlier else "start the run afresh"
        return UserError(
            f"checkpoint {self.folder / str(step)} is damaged ({reason}); "
            f"delete that folder to {consequence}"
        )


def _shapes_by_name(state: TrainState) -> ShapesByName:
    """Shapes and dtypes of all arrays, under the names that Orbax gives to saved leaves."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    shapes: ShapesByName = {}
    for path, leaf in leaves:
        name = " ".join(jax.tree_util.keystr((key,), simple=True) for key in path)
        shapes[name] = (tuple(leaf.shape), str(leaf.dtype))
    return shapes
