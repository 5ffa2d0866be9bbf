"""Frozen parameters: in a folder of their own beside the step folders, which refer to it by name.

They are the same at every step of a run, and with adapters nearly all of its state.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
from etils import epath

from corl_jax.core.errors import describe_error
from corl_jax.core.types import Params
from corl_jax.engine.checkpoints.abandoned_tasks import hidden_abandoned_tasks
from corl_jax.engine.checkpoints.inventory import DamagedCheckpoint, check_inventory
from corl_jax.engine.checkpoints.manifest import Manifest, json_digest

FROZEN = "frozen"
"""The field of ``TrainState``, which begins the names of its arrays."""


def frozen_name(digests: Mapping[str, str]) -> str | None:
    """Name of the folder for the frozen ones among all arrays of a state; None for none.

    Args:
      digests: of all arrays by name.
    """
    frozen = {name: text for name, text in digests.items() if name.startswith(f"{FROZEN} ")}
    return f"frozen-{json_digest(frozen)[:16]}" if frozen else None


def frozen_folder(step_folder: Path | epath.Path, manifest: Manifest) -> Path | epath.Path:
    """The folder that has the frozen parameters of a step.

    Raises:
      DamagedCheckpoint: it is missing, or a file of it is damaged.
    """
    if manifest.frozen is None:
        return step_folder
    folder = step_folder.parent / manifest.frozen
    if not folder.is_dir():
        raise DamagedCheckpoint(
            step_folder,
            f"its frozen parameters {folder} are missing",
            "copy that folder, too, or choose another step",
        )
    with _about_frozen(step_folder, folder):
        check_inventory(folder)
    return folder


def read_frozen(
    step_folder: Path | epath.Path, manifest: Manifest, targets: Mapping[str, Mapping[str, Any]]
) -> dict[str, Params]:
    """Reads the frozen parameters of a step; ``targets`` as in ``restore_arrays``.

    Raises:
      DamagedCheckpoint: their folder is missing or damaged.
    """
    folder = frozen_folder(step_folder, manifest)
    with _about_frozen(step_folder, folder):
        return restore_arrays(folder, targets)


@contextlib.contextmanager
def _about_frozen(step_folder: Path | epath.Path, folder: Path | epath.Path) -> Iterator[None]:
    """A damage of ``folder`` is one of the step that refers to it."""
    try:
        yield
    except DamagedCheckpoint as error:
        raise DamagedCheckpoint(step_folder, f"{folder.name}: {error.reason}") from error


def restore_arrays(
    folder: Path | epath.Path, targets: Mapping[str, Mapping[str, Any]]
) -> dict[str, Params]:
    """Reads arrays by field of the state and path, each into its target's sharding.

    Raises:
      DamagedCheckpoint: they cannot be read.
    """
    # A partial restore: only the named arrays, each straight into its shards.
    args = ocp.args.PyTreeRestore(
        item=targets,
        restore_args=ocp.checkpoint_utils.construct_restore_args(targets),
        partial_restore=True,
    )
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader, hidden_abandoned_tasks():
            return reader.restore(folder / "state", args=args)
    except Exception as error:
        # Shapes were checked before, so whatever Orbax raises now is about the files.
        raise DamagedCheckpoint(folder, describe_error(error)) from error
