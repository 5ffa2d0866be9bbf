"""Parameters out of another run's checkpoint: how one stage starts from the one before.

In: a work directory or one of its step folders, also in a bucket. Out: its manifest, its parameters' shapes, or the
parameters placed.
"""

from __future__ import annotations

from pathlib import Path

import jax
import orbax.checkpoint as ocp
from etils import epath

from corl_jax.core import trees
from corl_jax.core.errors import UserError, describe_error
from corl_jax.core.types import Params
from corl_jax.engine.checkpoint import latest_step
from corl_jax.engine.manifest import Manifest, damage, read_manifest
from corl_jax.engine.remote_workdir import CHECKPOINTS, is_address

PARTS = ("trainable", "frozen")


def step_folder(path: str | Path | epath.Path) -> Path | epath.Path:
    """``path`` itself if it is a step folder, else the newest step of the work directory ``path``.

    Raises:
      UserError: neither.
    """
    path = epath.Path(path) if is_address(path) else Path(path).resolve()
    if path.name.isdigit() and (path / "state").is_dir():
        return path
    step = latest_step(path)
    if step is None:
        raise UserError(
            f"{path} holds no checkpoint; expected a work directory with checkpoints/<step> or such a step folder"
        )
    return path / CHECKPOINTS / str(step)


def saved_manifest(path: str | Path | epath.Path) -> Manifest:
    """Manifest of a work directory's newest step, or of a step folder. Raises UserError when there is none."""
    return read_manifest(step_folder(path))


def saved_shapes(path: str | Path | epath.Path) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of all saved parameters by path, without reading them."""
    return {
        name: struct
        for part in _layout(step_folder(path)).values()
        for name, struct in part.items()
    }


def load_params(path: str | Path | epath.Path, wanted: dict[str, jax.ShapeDtypeStruct]) -> Params:
    """Reads parameters straight into their placement, whatever mesh and trainable split wrote them.

    Args:
      path: a work directory or a step folder.
      wanted: shape, dtype and ``sharding`` by parameter path; may be fewer than are saved.

    Returns:
      the wanted parameters, bit for bit, or rounded where they are wanted in another type than they were saved in.
      When all are wanted, they are checked against the manifest's digest.

    Raises:
      UserError: a wanted parameter is absent or of another shape, or the checkpoint is damaged.
    """
    folder = step_folder(path)
    layout = _layout(folder)
    saved = {name: part for part in PARTS for name in layout[part]}
    for name, struct in wanted.items():
        if name not in saved:
            raise UserError(
                f"{folder} has no parameter {name!r}; it holds {len(saved)}, such as {sorted(saved)[:3]}"
            )
        have = layout[saved[name]][name]
        if have.shape != tuple(struct.shape):
            raise UserError(
                f"{folder}: parameter {name!r} is {have.dtype}{list(have.shape)} there, but "
                f"{struct.dtype}{list(struct.shape)} is wanted; start from a checkpoint of the same model size"
            )
    stored = {
        name: struct.update(dtype=layout[saved[name]][name].dtype)
        for name, struct in wanted.items()
    }
    like = {
        part: {name: struct for name, struct in stored.items() if saved[name] == part}
        for part in PARTS
    }
    like = {part: structs for part, structs in like.items() if structs}
    if not like:
        return {}
    args = ocp.args.PyTreeRestore(
        item=like,
        restore_args=ocp.checkpoint_utils.construct_restore_args(like),
        partial_restore=True,
    )
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            restored = reader.restore(folder / "state", args=args)
    except Exception as error:
        raise UserError(
            f"checkpoint {folder} is damaged ({describe_error(error)}); choose another step"
        ) from error
    params = {name: restored[saved[name]][name] for name in wanted}
    digest = read_manifest(folder).params_digest
    whole = all(leaf.is_fully_addressable for leaf in params.values())
    if (
        digest is not None
        and params.keys() == saved.keys()
        and whole
        and trees.digest(params) != digest
    ):
        raise UserError(
            f"checkpoint {folder} is damaged (digest differs from its manifest); choose another step"
        )
    return {name: leaf.astype(wanted[name].dtype) for name, leaf in params.items()}


def _layout(folder: Path | epath.Path) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
    """Shape and dtype of the saved parameters, by part and path."""
    if what := damage(folder):
        raise UserError(f"checkpoint {folder} is damaged ({what}); choose another step")
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            tree = reader.metadata(folder / "state").item_metadata.tree
        return {
            part: {
                name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
                for name, leaf in tree[part].items()
            }
            for part in PARTS
        }
    except Exception as error:
        raise UserError(
            f"checkpoint {folder} cannot be read ({describe_error(error)}); choose another step"
        ) from error
