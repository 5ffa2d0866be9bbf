"""The small text that lies in every checkpoint and says what it is.

In: a state and what the run knows of itself. Out: a ``Manifest``, written by ``checkpoint`` and read here, and an
inventory of the step folder by which a truncated checkpoint is told before anything is read from it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from importlib import metadata
from pathlib import Path
from typing import Any

from etils import epath

from corl_jax import __version__
from corl_jax.core import trees
from corl_jax.core.errors import UserError, describe_error
from corl_jax.core.files import write_whole
from corl_jax.engine.state import TrainState

FILE = Path("manifest") / "manifest.json"
"""Where the manifest lies inside a step folder."""
INVENTORY = "files.json"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a checkpoint is.

    Attributes:
      stage: name of the stage that wrote it.
      step: steps of the loop done.
      model: config of the model, as JSON.
      params_digest: ``trees.digest`` of all parameters, or None where they are spread over several hosts.
      config_digest: hash of the run's whole config.
      versions: of this package and the libraries that wrote it.
    """

    stage: str
    step: int
    model: dict[str, Any]
    params_digest: str | None
    config_digest: str
    versions: dict[str, str]


@dataclasses.dataclass(frozen=True)
class RunIdentity:
    """What a run knows of itself: ``stage`` name, ``model`` config and whole ``config``, both as JSON."""

    stage: str
    model: dict[str, Any]
    config: dict[str, Any]


def describe(identity: RunIdentity, step: int, state: TrainState) -> Manifest:
    """The manifest of ``state`` after ``step`` steps."""
    return Manifest(
        stage=identity.stage,
        step=step,
        model=identity.model,
        params_digest=params_digest(state),
        config_digest=digest_of(identity.config),
        versions={"corl_jax": __version__}
        | {
            name: metadata.version(name)
            for name in ("jax", "flax", "optax", "orbax-checkpoint", "grain")
        },
    )


def digest_of(value: Any) -> str:
    """Hash of JSON values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def params_digest(state: TrainState) -> str | None:
    """Digest of the parameters, or None where this host does not hold all of them."""
    whole = all(leaf.is_fully_addressable for leaf in state.params.values())
    return trees.digest(state.params) if whole else None


def read_manifest(step_folder: Path | epath.Path) -> Manifest:
    """The manifest of a step folder such as ``run/checkpoints/100``.

    Raises:
      UserError: missing or unreadable.
    """
    path = step_folder / FILE
    try:
        return Manifest(**json.loads(path.read_text()))
    except FileNotFoundError:
        raise UserError(
            f"{step_folder} is no checkpoint of ours: {FILE} is missing; expected a step folder "
            f"such as <workdir>/checkpoints/100"
        ) from None
    except (json.JSONDecodeError, TypeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read as a manifest ({describe_error(error)}); use another checkpoint"
        ) from error


def write_inventory(step_folder: Path) -> None:
    """Notes the size of every file of a finished step folder in ``files.json``, in one atomic move."""
    sizes = {
        str(path.relative_to(step_folder)): path.stat().st_size for path in _files(step_folder)
    }
    write_whole(step_folder / INVENTORY, json.dumps(sizes, indent=1, sort_keys=True))


def damage(step_folder: Path | epath.Path) -> str | None:
    """What is missing from or cut short in a step folder, in words; None when all is there.

    A folder without an inventory (in a bucket, or the run was killed between the two writes) has nothing to be held
    against.
    """
    path = step_folder / INVENTORY
    if not path.exists():
        return None
    try:
        sizes = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        return f"{INVENTORY} is cut short: {describe_error(error)}"
    for name, size in sizes.items():
        file = Path(step_folder) / name
        if not file.exists():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes of {size}"
    return None


def _files(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(INVENTORY)
    )
