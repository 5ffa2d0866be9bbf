"""The manifest: a small JSON file in every checkpoint that describes what the checkpoint is.

In: a train state and the identity of its run. Out: a ``Manifest``, which ``checkpoint`` writes and
this file reads. Also here: an inventory of the step folder, with which a truncated checkpoint is
recognised before anything is read from it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from etils import epath

from corl_jax import __version__
from corl_jax.core import trees
from corl_jax.core.errors import UserError, describe_error
from corl_jax.core.files import write_atomically
from corl_jax.engine.state import TrainState

# Path of the manifest inside a step folder.
MANIFEST_FILE = Path("manifest") / "manifest.json"

# Path of the inventory inside a step folder: name of every file to its size.
INVENTORY_FILE = "files.json"

# Libraries whose versions are noted.
LIBRARIES = ("jax", "flax", "optax", "orbax-checkpoint", "grain")


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a checkpoint is. The names of the fields are keys of the file.

    Attributes:
      stage: name of the stage that wrote it.
      step: steps of the loop that were done.
      model: config of the model, as JSON.
      params_digest: ``trees.digest`` of all parameters; None if they are spread over several hosts.
      config_digest: hash of the run's entire config.
      versions: of this package and of the libraries that wrote it.
    """

    stage: str
    step: int
    model: dict[str, Any]
    params_digest: str | None
    config_digest: str
    versions: dict[str, str]


@dataclasses.dataclass(frozen=True)
class RunIdentity:
    """What a run puts into its manifests.

    Attributes:
      stage: name of the stage.
      model: config of the model, as JSON.
      config: the entire config, as JSON.
    """

    stage: str
    model: dict[str, Any]
    config: dict[str, Any]


def make_manifest(identity: RunIdentity, step: int, state: TrainState) -> Manifest:
    """The manifest of ``state`` after ``step`` steps."""
    # The versions are for people who read the file; nothing checks them.
    versions = {"corl_jax": __version__}
    versions |= {name: metadata.version(name) for name in LIBRARIES}
    return Manifest(
        stage=identity.stage,
        step=step,
        model=identity.model,
        params_digest=params_digest(state),
        config_digest=json_digest(identity.config),
        versions=versions,
    )


def json_digest(value: Mapping[str, Any]) -> str:
    """Hash of a JSON value; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def params_digest(state: TrainState) -> str | None:
    """Digest of the parameters, or None if this host does not hold all of them."""
    # Another host's shards cannot be hashed here, and a gather of all parameters would cost memory.
    is_complete = all(leaf.is_fully_addressable for leaf in state.params.values())
    return trees.digest(state.params) if is_complete else None


def read_manifest(step_folder: Path | epath.Path) -> Manifest:
    """The manifest of a step folder such as ``run/checkpoints/100``.

    Raises:
      UserError: the manifest is missing or unreadable.
    """
    path = step_folder / MANIFEST_FILE
    try:
        return Manifest(**json.loads(path.read_text()))
    except FileNotFoundError:
        raise UserError(
            f"{step_folder} is not a checkpoint of corl_jax: {MANIFEST_FILE} is missing; "
            "expected a step folder such as <workdir>/checkpoints/100"
        ) from None
    # TypeError: JSON with other keys than the fields of a manifest.
    except (json.JSONDecodeError, TypeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read as a manifest ({describe_error(error)}); use another checkpoint"
        ) from error


def write_inventory(step_folder: Path) -> None:
    """Writes the size of every file of a finished step folder to ``files.json``, atomically."""
    sizes = {
        str(path.relative_to(step_folder)): path.stat().st_size for path in _list_files(step_folder)
    }
    write_atomically(step_folder / INVENTORY_FILE, json.dumps(sizes, indent=1, sort_keys=True))


def find_damage(step_folder: Path | epath.Path) -> str | None:
    """What is missing from a step folder or cut short, as text; None if it is complete.

    A folder without an inventory is taken to be complete: it is in a bucket, or the run was killed
    between the two writes.
    """
    path = step_folder / INVENTORY_FILE
    if not path.exists():
        return None

    # Writing the inventory is atomic, so a short one comes from a bad copy.
    try:
        sizes = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        return f"{INVENTORY_FILE} is cut short: {describe_error(error)}"

    # Sizes are enough: a killed or interrupted copy leaves short files, not changed ones.
    for name, size in sizes.items():
        file = Path(step_folder) / name
        if not file.exists():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes of {size}"
    return None


def _list_files(folder: Path) -> list[Path]:
    """All files of a step folder except the inventory itself and its temporary file."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(INVENTORY_FILE)
    )
