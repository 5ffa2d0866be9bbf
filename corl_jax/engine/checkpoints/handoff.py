"""Reads parameters from another run's checkpoint, so that one stage starts from the one before.

In: a work directory or one of its step folders, also in a bucket. Out: its manifest, the shapes of
its parameters, or the parameters with the shardings that the new run needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from corl_jax.core import trees
from corl_jax.core.errors import UserError, describe_error
from corl_jax.core.types import Params
from corl_jax.engine.checkpoints.frozen_params import (
    FROZEN,
    frozen_folder,
    read_frozen,
    restore_arrays,
)
from corl_jax.engine.checkpoints.inventory import DamagedCheckpoint, check_inventory
from corl_jax.engine.checkpoints.manifest import Manifest, read_manifest
from corl_jax.engine.checkpoints.step_folders import latest_step
from corl_jax.engine.remote_workdir import CHECKPOINTS, is_address

# The fields of ``TrainState`` that hold parameters.
PARTS = ("trainable", FROZEN)

# Parameter path to shape and dtype.
Shapes = dict[str, jax.ShapeDtypeStruct]


def step_folder(path: str | Path | epath.Path) -> Path | epath.Path:
    """``path`` itself if it is a step folder, else the newest step of the work directory ``path``.

    Raises:
      UserError: it is neither.
    """
    path = epath.Path(path) if is_address(path) else Path(path).resolve()
    if path.name.isdigit() and (path / "state").is_dir():
        return path

    # Not a step folder, so it must be a work directory.
    step = latest_step(path)
    if step is None:
        raise UserError(
            f"{path} has no checkpoint; expected a work directory with checkpoints/<step>, "
            "or such a step folder"
        )
    return path / CHECKPOINTS / str(step)


def saved_manifest(path: str | Path | epath.Path) -> Manifest:
    """Manifest of a step folder, or of a work directory's newest step.

    Raises:
      UserError: there is none.
    """
    return read_manifest(step_folder(path))


def saved_shapes(path: str | Path | epath.Path) -> Shapes:
    """Shapes and dtypes of all saved parameters by path, without reading the parameters."""
    shapes: Shapes = {}
    for part_shapes in _shapes_by_part(step_folder(path)).values():
        shapes |= part_shapes
    return shapes


def load_params(
    path: str | Path | epath.Path, abstract_params: Mapping[str, jax.ShapeDtypeStruct]
) -> Params:
    """Reads parameters straight into their shardings.

    The mesh of the run that wrote them does not matter, and neither does which of them it trained.

    Args:
      path: a work directory or a step folder.
      abstract_params: parameter path to shape, dtype and ``sharding``; it may have fewer parameters
        than are saved.

    Returns:
      these parameters, bit for bit, or rounded where their dtype is not the saved one. They are
      finite, and checked against the digests in the manifest.

    Raises:
      UserError: a parameter is absent or of another shape, or the checkpoint is damaged.
    """
    folder = step_folder(path)
    saved = _shapes_by_part(folder)
    part_of = {name: part for part in PARTS for name in saved[part]}
    _check_shapes(folder, abstract_params, saved, part_of)

    # Read in the saved dtypes and by part, as Orbax stores them.
    targets: dict[str, dict[str, Any]] = {}
    for part in PARTS:
        structs = {
            name: struct.update(dtype=saved[part][name].dtype)
            for name, struct in abstract_params.items()
            if part_of[name] == part
        }
        if structs:
            targets[part] = structs
    if not targets:
        return {}

    # Frozen ones may be in a folder of their own.
    manifest = read_manifest(folder)
    beside = {FROZEN: targets.pop(FROZEN)} if manifest.frozen and FROZEN in targets else {}
    restored = restore_arrays(folder, targets) if targets else {}
    if beside:
        restored |= read_frozen(folder, manifest, beside)
    params = {name: restored[part_of[name]][name] for name in abstract_params}

    _check_digests(folder, manifest, params, part_of)

    # Only now the dtype, since the digest is of the saved bits.
    return {name: leaf.astype(abstract_params[name].dtype) for name, leaf in params.items()}


def _check_digests(
    folder: Path | epath.Path, manifest: Manifest, params: Params, part_of: dict[str, str]
) -> None:
    """Raises DamagedCheckpoint unless the parameters are as they were saved, and finite."""
    manifest.check_arrays(folder, {f"{part_of[name]} {name}": params[name] for name in params})

    # An older version has one digest of all parameters, for a host that has all of them.
    is_complete = params.keys() == part_of.keys()
    is_addressable = all(leaf.is_fully_addressable for leaf in params.values())
    can_check = manifest.params_digest is not None and is_complete and is_addressable
    if manifest.arrays is None and can_check and trees.digest(params) != manifest.params_digest:
        raise DamagedCheckpoint(folder, "its parameters are not as they were written")


def _check_shapes(
    folder: Path | epath.Path,
    abstract_params: Mapping[str, jax.ShapeDtypeStruct],
    saved: dict[str, Shapes],
    part_of: dict[str, str],
) -> None:
    """Raises UserError unless every parameter is saved with its shape."""
    for name, struct in abstract_params.items():
        if name not in part_of:
            raise UserError(
                f"{folder} has no parameter {name!r}; it has {len(part_of)} parameters, such as "
                f"{sorted(part_of)[:3]}"
            )

        # The dtype may differ: values are rounded after they are read.
        saved_struct = saved[part_of[name]][name]
        if saved_struct.shape != tuple(struct.shape):
            raise UserError(
                f"{folder}: parameter {name!r} must be {struct.dtype}{list(struct.shape)}, but the "
                f"saved one is {saved_struct.dtype}{list(saved_struct.shape)}; "
                "start from a checkpoint of the same model size"
            )


def _shapes_by_part(folder: Path | epath.Path) -> dict[str, Shapes]:
    """Shapes and dtypes of the saved parameters, by part and path."""
    check_inventory(folder)

    # Only Orbax's metadata are read, which are small.
    shapes: dict[str, Shapes] = {}
    folders = dict.fromkeys(PARTS, folder) | {FROZEN: frozen_folder(folder, read_manifest(folder))}
    for part, part_folder in folders.items():
        try:
            with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
                tree = reader.metadata(part_folder / "state").item_metadata.tree
            shapes[part] = {
                name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
                for name, leaf in tree[part].items()
            }
        except Exception as error:
            raise DamagedCheckpoint(folder, describe_error(error)) from error
    return shapes
