"""Checkpoints of a run: Orbax folders that hold the state, the data position and a manifest, written together.

In: a ``TrainState`` and a Grain iterator, whose position is the same on every process. Out:
``<folder>/<step>/{state,data,manifest}``, and both back bit for bit, on any number of processes.
A step folder gets its number only once it is complete (in a bucket, a mark that it is), so a run killed while writing
leaves nothing that counts.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import absl.logging
import grain
import jax
import orbax.checkpoint as ocp
from etils import epath

from corl_jax.core.errors import UserError, describe_error
from corl_jax.engine.manifest import (
    FILE,
    RunIdentity,
    damage,
    describe,
    params_digest,
    read_manifest,
    write_inventory,
)
from corl_jax.engine.remote_workdir import CHECKPOINTS, is_address
from corl_jax.engine.state import TrainState

absl.logging.set_verbosity(absl.logging.ERROR)


def saved_steps(folder: Path | epath.Path) -> list[int]:
    """Numbers of the completed step folders under ``folder``, ascending; empty where there is none."""
    if not folder.is_dir():
        return []
    numbered = [path for path in folder.iterdir() if path.name.isdigit() and path.is_dir()]
    return sorted(
        int(path.name) for path in numbered if ocp.utils.is_checkpoint_finalized(epath.Path(path))
    )


def latest_step(workdir: str | Path | epath.Path) -> int | None:
    """Newest step saved in a work directory, or None."""
    steps = saved_steps(epath.Path(workdir) / CHECKPOINTS)
    return steps[-1] if steps else None


class Checkpointer:
    """Saves and restores the steps of one run, synchronously.

    Args:
      folder: created when missing; may be in a bucket.
      identity: written into every manifest; a checkpoint of another stage is refused.
      keep: how many of the newest steps stay.
    """

    def __init__(self, folder: Path | epath.Path, identity: RunIdentity, keep: int = 2):
        if keep < 1:
            raise UserError(f"keep={keep} would keep no checkpoint; expected 1 or more")
        self.folder, self._identity = folder if is_address(folder) else folder.resolve(), identity
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, enable_async_checkpointing=False, cleanup_tmp_directories=True
            ),
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "data": ocp.JsonCheckpointHandler(filename="position.json"),
                "manifest": ocp.JsonCheckpointHandler(filename=FILE.name),
            },
        )

    def save(self, step: int, state: TrainState, data: grain.DatasetIterator) -> None:
        """Writes ``state`` and the position of ``data`` as ``step``; nothing happens if that step is saved already."""
        if step in saved_steps(self.folder):
            return
        manifest = dataclasses.asdict(describe(self._identity, step, state))
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                data=ocp.args.JsonSave(data.get_state()),
                manifest=ocp.args.JsonSave(manifest),
            ),
        )
        if jax.process_index() == 0 and not is_address(self.folder):  # objects are whole or absent
            write_inventory(Path(self.folder) / str(step))

    def restore(
        self, abstract_state: TrainState, data: grain.DatasetIterator
    ) -> tuple[int, TrainState]:
        """Reads the newest step, and moves ``data`` to where it was.

        Args:
          abstract_state: from ``state.abstract``: shapes, dtypes and placement to restore into.
          data: a fresh iterator over the same data; its position is changed in place.

        Returns:
          the step, and the state bit for bit as it was saved.

        Raises:
          UserError: no checkpoint, another stage's, another model's, or a damaged one. Nothing is changed on disk.
        """
        steps = saved_steps(self.folder)
        if not steps:
            raise UserError(f"{self.folder} holds no checkpoint; start the run without resuming")
        step = steps[-1]
        self._check(step, abstract_state)
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(abstract_state), data=ocp.args.JsonRestore()
                ),
            )
            data.set_state(restored.data)
        except Exception as error:
            raise self._damaged(step, describe_error(error)) from error
        wanted = read_manifest(self.folder / str(step)).params_digest
        if wanted is not None and params_digest(restored.state) not in (wanted, None):
            raise self._damaged(step, "its parameters do not match the digest in its manifest")
        return step, restored.state

    def close(self) -> None:
        """Releases the manager's threads."""
        self._manager.close()

    def _check(self, step: int, abstract_state: TrainState) -> None:
        """Refuses a checkpoint of another stage or of other shapes before any number is read."""
        if what := damage(self.folder / str(step)):
            raise self._damaged(step, what)
        try:
            stage = read_manifest(self.folder / str(step)).stage
            saved = ocp.tree.to_flat_dict(self._manager.item_metadata(step).state.tree, sep=" ")
        except Exception as error:
            raise self._damaged(step, describe_error(error)) from error
        if stage != self._identity.stage:
            raise UserError(
                f"{self.folder / str(step)} was written by stage {stage!r}, not {self._identity.stage!r}; "
                f"choose another --workdir, or hand it over with init_from"
            )
        have = {
            name: (tuple(leaf.shape), str(leaf.dtype))
            for name, leaf in saved.items()
            if hasattr(leaf, "shape")
        }
        want = _shapes(abstract_state)
        for name in sorted(have.keys() | want.keys()):
            if have.get(name) != want.get(name):
                raise UserError(
                    f"{self.folder / str(step)} does not fit this run: {name} is {have.get(name, 'absent')} there and "
                    f"{want.get(name, 'absent')} here; choose another --workdir or the config that wrote it"
                )

    def _damaged(self, step: int, why: str) -> UserError:
        earlier = [other for other in saved_steps(self.folder) if other < step]
        then = f"resume from step {earlier[-1]}" if earlier else "start the run afresh"
        return UserError(
            f"checkpoint {self.folder / str(step)} is damaged ({why}); delete that folder to {then}"
        )


def _shapes(state: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype by name, named as Orbax names the leaves of a saved tree."""
    flat, _ = jax.tree_util.tree_flatten_with_path(state)
    return {
        " ".join(jax.tree_util.keystr((key,), simple=True) for key in path): (
            tuple(leaf.shape),
            str(leaf.dtype),
        )
        for path, leaf in flat
    }
