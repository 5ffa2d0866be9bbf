"""The manifest: a small JSON file in every checkpoint that describes what the checkpoint is.

In: a train state, the position in the data and the identity of the run. Out: a ``Manifest``, which
``checkpoint`` writes and this file reads. Its digests cover all that a run restores.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from etils import epath

from corl_jax import __version__
from corl_jax.core import trees
from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.checks.json_reader import parse_json
from corl_jax.core.checksums import Checksum, checksums
from corl_jax.core.errors import UserError
from corl_jax.engine.checkpoints.inventory import DamagedCheckpoint
from corl_jax.engine.checkpoints.step_folders import FROZEN_NAME
from corl_jax.engine.state import TrainState

# Path of the manifest inside a step folder.
MANIFEST_FILE = Path("manifest") / "manifest.json"

# Libraries whose versions are noted.
LIBRARIES = ("jax", "flax", "optax", "orbax-checkpoint", "grain")

NOT_FINITE = "holds NaN or infinity"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a checkpoint is. The names of the fields are keys of the file.

    Fields with a default are missing from checkpoints of older versions.

    Attributes:
      stage: name of the stage that wrote it.
      step: steps of the loop that were done.
      model: config of the model, as JSON.
      params_digest: ``trees.digest`` of all parameters; None if they are spread over several hosts.
      config_digest: hash of the run's entire config.
      versions: of this package and of the libraries that wrote it.
      arrays: every array of the train state by name, with the digest of ``core.checksums``.
      data_digest: hash of the position in the data.
      inputs: what the run was started from, as JSON; see ``RunIdentity``.
      frozen: name of the folder beside the step folder that has the frozen parameters; None where
        there are none, and where an older version wrote them into the step folder.
      digest: hash of all other fields.
    """

    stage: str
    step: int
    model: dict[str, Any]
    params_digest: str | None
    config_digest: str
    versions: dict[str, str]
    arrays: dict[str, str] | None = None
    data_digest: str | None = None
    inputs: dict[str, Any] | None = None
    frozen: str | None = None
    digest: str | None = None

    def check_arrays(self, folder: Path | epath.Path, arrays: Mapping[str, jax.Array]) -> None:
        """Compares arrays that were read with those that were written; all processes call this.

        Args:
          folder: they were read from, for errors.
          arrays: some or all of the train state, by the names of ``state.named_arrays``.

        Raises:
          DamagedCheckpoint: one of them differs, or is not finite.
        """
        for name, checksum in checksums(arrays).items():
            if self.arrays is not None and self.arrays.get(name) != checksum.digest:
                raise DamagedCheckpoint(folder, f"{name} is not as it was written")
            if not checksum.is_finite:
                raise DamagedCheckpoint(folder, f"{name} {NOT_FINITE}")


@dataclasses.dataclass(frozen=True)
class RunIdentity:
    """What a run puts into its manifests.

    Attributes:
      stage: name of the stage.
      model: config of the model, as JSON.
      config: the entire config, as JSON.
      inputs: what the run reads beside its config, as JSON: which policies its parameters came
        from, and which records it trains on. Read on the first process alone.
    """

    stage: str
    model: dict[str, Any]
    config: dict[str, Any]
    inputs: dict[str, Any] = dataclasses.field(default_factory=dict)


def make_manifest(
    identity: RunIdentity,
    step: int,
    state: TrainState,
    position: Mapping[str, Any],
    sums: Mapping[str, Checksum],
    frozen: str | None = None,
) -> Manifest:
    """The manifest of a state after ``step`` steps.

    Args:
      identity, step, state, position: what is described.
      sums: the checksums of all arrays of ``state``.
      frozen: see ``Manifest``.

    Raises:
      UserError: an array of the state is not finite, so it must not be saved.
    """
    if broken := [name for name, checksum in sums.items() if not checksum.is_finite]:
        raise UserError(
            f"step {step} cannot be saved: {broken[0]} {NOT_FINITE}. Earlier checkpoints are kept; "
            "start again from one of them with a lower config.optim.learning_rate in another "
            "--workdir"
        )

    # The versions are for people who read the file; nothing checks them.
    versions = {"corl_jax": __version__}
    versions |= {name: metadata.version(name) for name in LIBRARIES}
    manifest = Manifest(
        stage=identity.stage,
        step=step,
        model=identity.model,
        params_digest=params_digest(state),
        config_digest=json_digest(identity.config),
        versions=versions,
        arrays={name: checksum.digest for name, checksum in sums.items()},
        data_digest=json_digest(position),
        inputs=identity.inputs,
        frozen=frozen,
    )
    return dataclasses.replace(manifest, digest=_digest_of_fields(manifest))


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
      DamagedCheckpoint: it is missing, unreadable, changed, or of another step.
    """
    path = step_folder / MANIFEST_FILE
    try:
        manifest = _parse_manifest(path.read_bytes())
    except FileNotFoundError:
        raise DamagedCheckpoint(
            step_folder,
            f"{MANIFEST_FILE} is missing",
            "expected a step folder of corl_jax, such as <workdir>/checkpoints/100",
        ) from None
    except UserError as error:
        raise DamagedCheckpoint(step_folder, f"it cannot be read: {error}") from error

    if manifest.digest is not None and manifest.digest != _digest_of_fields(manifest):
        raise DamagedCheckpoint(step_folder, f"{MANIFEST_FILE} is not as it was written")
    if str(manifest.step) != step_folder.name:
        raise DamagedCheckpoint(step_folder, f"its manifest is of step {manifest.step}")
    return manifest


def _parse_manifest(content: bytes) -> Manifest:
    label, advice = str(MANIFEST_FILE), "use another checkpoint"
    manifest = JsonObject.check(parse_json(content, label, advice), label, advice)

    # A changed name must not pass for a field that an older version did not write.
    fields = {field.name for field in dataclasses.fields(Manifest)}
    if unknown := sorted(manifest.entries.keys() - fields):
        raise UserError(f"{label} must have the keys {', '.join(sorted(fields))}; got {unknown[0]}")

    frozen = manifest.optional_text("frozen")
    if frozen is not None and not re.fullmatch(FROZEN_NAME, frozen):
        raise UserError(f"{label}: frozen must match {FROZEN_NAME}; got {frozen!r}. {advice}")

    versions, arrays = manifest.block("versions"), manifest.optional_block("arrays")
    inputs = manifest.optional_block("inputs")
    return Manifest(
        stage=manifest.text("stage"),
        step=manifest.integer("step"),
        model=dict(manifest.block("model").entries),
        params_digest=manifest.optional_text("params_digest"),
        config_digest=manifest.text("config_digest"),
        versions={name: versions.text(name) for name in versions.entries},
        arrays={name: arrays.text(name) for name in arrays.entries} or None,
        data_digest=manifest.optional_text("data_digest"),
        inputs=dict(inputs.entries) if manifest.has("inputs") else None,
        frozen=frozen,
        digest=manifest.optional_text("digest"),
    )


def _digest_of_fields(manifest: Manifest) -> str:
    """Hash of all fields but ``digest``."""
    fields = dataclasses.asdict(dataclasses.replace(manifest, digest=None))
    # Older versions did not have it.
    if manifest.frozen is None:
        del fields["frozen"]
    return json_digest(fields)
