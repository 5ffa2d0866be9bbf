"""The folders of steps: how they are named while they are written, complete, and damaged.

A step folder gets its number only once it is complete and on the disk (in a bucket: a file that
marks it so), and older steps are deleted only then. A run that is killed while it writes, or whose
disk is full, therefore leaves nothing that looks like a checkpoint, and has lost none.
"""

from __future__ import annotations

import re
from pathlib import Path

import orbax.checkpoint as ocp
from etils import epath

from corl_jax.core.files import name_write_errors, sync
from corl_jax.engine.checkpoints.inventory import (
    DamagedCheckpoint,
    check_inventory,
    complete_folder,
)
from corl_jax.engine.remote_workdir import CHECKPOINTS, is_address

# After the number of a step: it is being written; it was damaged, and the run went on without it.
UNFINISHED, SET_ASIDE = ".part", ".damaged"

FROZEN_NAME = r"frozen-[0-9a-f]{16}"
"""Name of a folder beside those of the steps, with parameters that no step changes: a hash of them."""


def saved_steps(folder: Path | epath.Path) -> list[int]:
    """Numbers of the complete step folders under ``folder``, ascending; empty if there is none."""
    if not folder.is_dir():
        return []
    numbered = [path for path in folder.iterdir() if path.name.isdigit() and path.is_dir()]
    return sorted(
        int(path.name) for path in numbered if ocp.utils.is_checkpoint_finalized(epath.Path(path))
    )


def latest_step(workdir: str | Path | epath.Path) -> int | None:
    """The newest step that is saved in a work directory, or None."""
    steps = saved_steps(epath.Path(workdir) / CHECKPOINTS)
    return steps[-1] if steps else None


def make_clean_folder(folder: Path | epath.Path) -> None:
    """Creates the folder of checkpoints, and deletes what a killed run left half-written in it.

    Raises:
      UserError: it cannot be written.
    """
    complete = {str(step) for step in saved_steps(folder)}
    with name_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # A bucket has no empty folders.
        for path in folder.iterdir() if folder.is_dir() else ():
            # Orbax adds an ending of its own while it writes.
            name, _, ending = path.name.partition(".")
            is_step = name.isdigit() and path.suffix != SET_ASIDE and path.name not in complete
            is_frozen = bool(ending) and re.fullmatch(FROZEN_NAME, name) is not None
            if (is_step or is_frozen) and path.is_dir():
                epath.Path(path).rmtree()


def unfinished_folder(folder: Path | epath.Path, name: int | str) -> Path | epath.Path:
    """Where a step, or the frozen parameters of that name, are written before they are complete."""
    # Objects in a bucket cannot be renamed at once; Orbax marks the folder when it is complete.
    return folder / (str(name) if is_address(folder) else f"{name}{UNFINISHED}")


def finish_folder(folder: Path | epath.Path, name: int | str) -> None:
    """Gives what was written as ``unfinished_folder`` its name, once all of it is on the disk.

    Raises:
      UserError: the disk is full or broken.
    """
    # Objects in a bucket are complete or absent, so they need no inventory.
    if is_address(folder):
        return
    with name_write_errors(Path(folder) / str(name)):
        written = Path(unfinished_folder(folder, name))
        complete_folder(written)
        written.rename(folder / str(name))
        sync(Path(folder))


def finish_step(folder: Path | epath.Path, step: int, keep: int) -> None:
    """Gives a step that is written its number, then deletes all but the newest ``keep`` steps.

    Raises:
      UserError: the disk is full or broken.
    """
    finish_folder(folder, step)
    with name_write_errors(Path(folder) / str(step)):
        for number in saved_steps(folder)[:-keep]:
            epath.Path(folder / str(number)).rmtree()


def is_frozen_folder_whole(folder: Path | epath.Path, name: str) -> bool:
    """Whether the frozen parameters of that name are written, and none of their files is damaged."""
    frozen = folder / name
    if not frozen.is_dir() or not ocp.utils.is_checkpoint_finalized(epath.Path(frozen)):
        return False
    try:
        check_inventory(frozen)
    except DamagedCheckpoint:
        return False
    return True


def set_aside(folder: Path | epath.Path, step: int) -> None:
    """Renames a damaged step, so that the run can write it again.

    Raises:
      UserError: it cannot be renamed.
    """
    target = epath.Path(folder / f"{step}{SET_ASIDE}")
    with name_write_errors(Path(target)):
        if target.exists():
            target.rmtree()
        epath.Path(folder / str(step)).rename(target)
