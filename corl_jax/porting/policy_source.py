"""Opens a policy by the name that a user gives: ``tiny``, a folder, a hub id or a work directory.

A folder of PEFT's adapters is a policy too: the one that it names as its base, with them added.

Whatever the kind, an opened policy has the sizes of its model, a tokenizer, and parameters that are
read onto the devices.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import pathlib
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import numpy as np

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.checks.paths import check_inside, user_path
from corl_jax.core.errors import UserError
from corl_jax.core.trees import flatten_abstract
from corl_jax.core.types import Params
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.engine.checkpoints.handoff import saved_manifest, saved_shapes, step_folder
from corl_jax.engine.checkpoints.manifest import json_digest
from corl_jax.engine.remote_workdir import require_local_path
from corl_jax.models.janus.config import ImageTokenizerConfig, JanusConfig, VisionConfig
from corl_jax.models.janus.model import abstract
from corl_jax.models.language_model import DecoderConfig
from corl_jax.porting import hub
from corl_jax.porting.adapters.folder import AdapterFolder
from corl_jax.porting.adapters.settings import SETTINGS_FILE, is_adapter_folder, read_settings
from corl_jax.porting.file_digests import files_digest
from corl_jax.porting.janus.folder import JanusFolder
from corl_jax.porting.size_limits import FIELD_LIMITS, MAX_LEVELS, MAX_WIDTH
from corl_jax.porting.workdir_policy import load_merged_params

TINY = "tiny"
ADVICE = "choose another checkpoint"

Sizes = TypeVar("Sizes", VisionConfig, DecoderConfig, ImageTokenizerConfig)


def tiny_folder() -> pathlib.Path:
    """The base policy that is part of the package, also of an installed wheel."""
    return pathlib.Path(str(importlib.resources.files("corl_jax.assets"))) / "tiny"


def config_to_json(cfg: JanusConfig) -> dict[str, Any]:
    """The sizes of a model as JSON, for the manifest of a checkpoint."""
    # The detour over text turns tuples into lists, as they are when a manifest is read.
    return json.loads(json.dumps(dataclasses.asdict(cfg)))


def config_from_json(model: JsonObject) -> JanusConfig:
    """The inverse of ``config_to_json``.

    Raises:
      UserError: a size that is missing, of another type or beyond a limit.
    """
    return JanusConfig(
        _read_sizes(VisionConfig, model.block("vision")),
        _read_sizes(DecoderConfig, model.block("decoder")),
        _read_sizes(ImageTokenizerConfig, model.block("image_tokenizer")),
        model.integer("gen_head_dim", low=1, high=MAX_WIDTH),
    )


def _read_sizes(sizes: type[Sizes], block: JsonObject) -> Sizes:
    """A dataclass of sizes; every field must be there."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(sizes):
        name = field.name
        if field.type == "float":
            values[name] = block.number(name, low=0)
        elif name == "channel_multipliers":
            values[name] = block.integers(name, low=1, high=MAX_WIDTH, length=MAX_LEVELS)
        else:
            low = 0 if name == "res_blocks" else 1
            values[name] = block.integer(name, low=low, high=FIELD_LIMITS[name])
    return sizes(**values)


@dataclasses.dataclass(frozen=True)
class PolicySource:
    """An opened policy, whose parameters are read on request.

    Attributes:
      name: as the user gave it.
      cfg: sizes of the model.
      tokenizer_folder: folder with the tokenizer and the other small files of the policy.
      janus_folder: the opened Hugging Face folder; None for a work directory.
      workdir: the work directory; None for a Hugging Face folder.
      revision: commit of a model of the Hugging Face hub; None for a folder.
      adapters: that are added to the kernels of all of the above; None for none.
    """

    name: str
    cfg: JanusConfig
    tokenizer_folder: pathlib.Path
    janus_folder: JanusFolder | None = None
    workdir: pathlib.Path | None = None
    revision: str | None = None
    adapters: AdapterFolder | None = None

    def identity(self) -> dict[str, Any]:
        """What tells this policy from another one that may come to have its name, as JSON.

        A work directory has the step and the digest in its newest manifest, a model of the hub its
        revision, and a folder the hash of its weight files, which are read for that.
        """
        if self.adapters is not None:
            base = dataclasses.replace(self, adapters=None).identity()
            return {"base": base, "adapters": self.adapters.digest()}
        if self.workdir is not None:
            manifest = saved_manifest(self.workdir)
            arrays = manifest.arrays or {}
            return {
                "step": manifest.step,
                "digest": manifest.params_digest or json_digest(arrays),
            }
        if self.revision is not None:
            return {"revision": self.revision}
        assert self.janus_folder is not None
        return {"digest": files_digest(set(self.janus_folder.reader.weights.file_of.values()))}

    def saved_paths(self) -> set[str] | None:
        """The parameter paths that a work directory holds; None if the model is complete.

        A work directory of the image tokenizer, for instance, holds only that part of the model.
        """
        return None if self.workdir is None else set(saved_shapes(self.workdir))

    def load_params(self, structs: Mapping[str, jax.ShapeDtypeStruct]) -> Params:
        """Reads parameters onto the devices. Adapters are merged into their kernels.

        Args:
          structs: shape, dtype and sharding of each parameter to read, by path.
        """
        if self.adapters is not None:
            base = dataclasses.replace(self, adapters=None)
            return self.adapters.load_merged(base.load_params, structs)

        # Exactly one of workdir and janus_folder is set.
        if self.workdir is not None:
            return load_merged_params(self.workdir, structs)
        assert self.janus_folder is not None
        return self.janus_folder.reader.load_params(structs)

    def param_dtype(self, path: str) -> np.dtype:
        """The dtype for a parameter that is not trained.

        It is float32 for the image tokenizer, for work directories and for kernels with adapters,
        else as stored.
        """
        # A kernel of few bits would lose small adapters.
        if self.adapters is not None and path in self.adapters.shapes:
            return np.dtype(np.float32)
        # Rounding the image tokenizer would change the images that given tokens decode to.
        if self.janus_folder is None or path.startswith("image_tokenizer/"):
            return np.dtype(np.float32)
        return self.janus_folder.reader.param_dtype(path)

    def check_links(self) -> None:
        """Checks that what a copy of the policy is made from is in its folder.

        Raises:
          UserError: a link leads out of a work directory. Another folder may consist of links, as
            the cache of the Hugging Face hub does.
        """
        if self.workdir is not None:
            newest = step_folder(self.workdir)
            for folder in (self.tokenizer_folder, pathlib.Path(newest)):
                for path in (folder, *folder.rglob("*")):
                    check_inside(path, self.workdir)

    def load_tokenizer(self) -> TextTokenizer:
        """Reads the text tokenizer.

        Raises:
          UserError: there is no tokenizer, or it belongs to another model.
        """
        if self.janus_folder is None:
            return TextTokenizer.load(self.tokenizer_folder, name=self.name)
        return self.janus_folder.load_tokenizer(self.name)


def open_policy_source(name: str) -> PolicySource:
    """Opens a policy.

    Args:
      name: ``tiny``, a Hugging Face folder, the id of a model on the Hugging Face hub, a work
        directory, or a folder or hub id of adapters as PEFT stores them.

    Raises:
      UserError: there is nothing of that name, or it is not a policy that corl_jax builds.
    """
    folder, revision = _find_folder(name)
    if is_adapter_folder(folder):
        return _open_adapters(name, folder)
    return _open_whole(name, folder, revision)


def _find_folder(name: str) -> tuple[pathlib.Path, str | None]:
    """The folder of a policy, downloaded if it is on the hub, and the commit that it is of there."""
    # Addresses of buckets are refused; a name is expanded like a path of the shell.
    require_local_path(name)
    folder = tiny_folder() if name == TINY else user_path(name, "the policy")

    # A local folder of the same name comes before a model on the hub.
    revision = None
    if not folder.is_dir() and hub.is_id(name):
        folder = hub.download(name)
        revision = folder.name  # the cache has a folder per commit
    if not folder.is_dir():
        raise UserError(
            f"policy {name!r} is not a folder; choose {TINY!r}, a Hugging Face folder or hub id, "
            "or a work directory"
        )
    return folder, revision


def _open_whole(name: str, folder: pathlib.Path, revision: str | None) -> PolicySource:
    """A policy that is no adapters."""
    # Only work directories have a folder of checkpoints.
    if (folder / "checkpoints").is_dir():
        model = JsonObject(saved_manifest(folder).model, f"the manifest of {name!r}", ADVICE)
        cfg = config_from_json(model)
        return PolicySource(name, cfg, folder / "tokenizer", workdir=folder)
    janus_folder = JanusFolder(folder)
    return PolicySource(
        name, janus_folder.cfg, folder, janus_folder=janus_folder, revision=revision
    )


def _open_adapters(name: str, folder: pathlib.Path) -> PolicySource:
    """The policy that a folder of adapters names as its base, with the adapters."""
    if (folder / "config.json").exists():
        raise UserError(
            f"policy {name!r} must have config.json, as a model, or {SETTINGS_FILE}, as adapters; "
            "got both. Move the files of one of them to a folder of their own"
        )
    settings = read_settings(folder)
    try:
        base_folder, revision = _find_folder(settings.base)
    except UserError as error:
        raise UserError(
            f"the base of the adapters in {name!r} cannot be opened: {error}. It is "
            f"base_model_name_or_path in their {SETTINGS_FILE}"
        ) from None
    if is_adapter_folder(base_folder):
        raise UserError(
            f"the base of the adapters in {name!r} must be a whole policy; got the adapters "
            f"{settings.base!r}. Merge those with their base first, by corl export, and name what "
            f"comes out in {SETTINGS_FILE}"
        )

    base = _open_whole(name, base_folder, revision)
    shapes = {path: leaf.shape for path, leaf in flatten_abstract(abstract(base.cfg)).items()}
    adapters = AdapterFolder.open(folder, settings, base.cfg, shapes)
    return dataclasses.replace(base, adapters=adapters)
