"""Opens a policy by the name that a user gives: ``tiny``, a folder, a hub id or a work directory.

Whatever the kind, an opened policy has the sizes of its model, a tokenizer, and parameters that are
read onto the devices.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import importlib.resources
import json
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np

from corl_jax.core.errors import UserError
from corl_jax.core.types import Params
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.engine.checkpoints.handoff import saved_manifest, saved_shapes
from corl_jax.engine.checkpoints.manifest import json_digest
from corl_jax.engine.remote_workdir import require_local_path
from corl_jax.models.janus.config import ImageTokenizerConfig, JanusConfig, VisionConfig
from corl_jax.models.language_model import DecoderConfig
from corl_jax.porting import hub
from corl_jax.porting.janus.folder import JanusFolder
from corl_jax.porting.workdir_policy import load_merged_params

TINY = "tiny"


def tiny_folder() -> pathlib.Path:
    """The base policy that is part of the package, also of an installed wheel."""
    return pathlib.Path(str(importlib.resources.files("corl_jax.assets"))) / "tiny"


def config_to_json(cfg: JanusConfig) -> dict[str, Any]:
    """The sizes of a model as JSON, for the manifest of a checkpoint."""
    # The detour over text turns tuples into lists, as they are when a manifest is read.
    return json.loads(json.dumps(dataclasses.asdict(cfg)))


def config_from_json(raw: Mapping[str, Any]) -> JanusConfig:
    """The inverse of ``config_to_json``."""
    # JSON has no tuples.
    image_tokenizer = dict(raw["image_tokenizer"])
    image_tokenizer["channel_multipliers"] = tuple(image_tokenizer["channel_multipliers"])
    return JanusConfig(
        VisionConfig(**raw["vision"]),
        DecoderConfig(**raw["decoder"]),
        ImageTokenizerConfig(**image_tokenizer),
        raw["gen_head_dim"],
    )


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
    """

    name: str
    cfg: JanusConfig
    tokenizer_folder: pathlib.Path
    janus_folder: JanusFolder | None = None
    workdir: pathlib.Path | None = None
    revision: str | None = None

    def identity(self) -> dict[str, Any]:
        """What tells this policy from another one that may come to have its name, as JSON.

        A work directory has the step and the digest in its newest manifest, a model of the hub its
        revision, and a folder the hash of its weight files, which are read for that.
        """
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
        # Exactly one of workdir and janus_folder is set.
        if self.workdir is not None:
            return load_merged_params(self.workdir, structs)
        assert self.janus_folder is not None
        return self.janus_folder.reader.load_params(structs)

    def param_dtype(self, path: str) -> np.dtype:
        """The dtype for a parameter that is not trained.

        It is float32 for the image tokenizer and for work directories, else as stored.
        """
        # Rounding the image tokenizer would change the images that given tokens decode to.
        if self.janus_folder is None or path.startswith("image_tokenizer/"):
            return np.dtype(np.float32)
        return self.janus_folder.reader.param_dtype(path)

    def load_tokenizer(self) -> TextTokenizer:
        """Reads the text tokenizer.

        Raises:
          UserError: there is no tokenizer, or it belongs to another model.
        """
        if self.janus_folder is None:
            return TextTokenizer.load(self.tokenizer_folder)
        return self.janus_folder.load_tokenizer()


def open_policy_source(name: str) -> PolicySource:
    """Opens a policy.

    Args:
      name: ``tiny``, a Hugging Face folder, the id of a model on the Hugging Face hub, or a work
        directory.

    Raises:
      UserError: there is nothing of that name, or it is not a policy that corl_jax builds.
    """
    # Addresses of buckets are refused; a name is expanded like a path of the shell.
    require_local_path(name)
    folder = tiny_folder() if name == TINY else pathlib.Path(name).expanduser()

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

    # Only work directories have a folder of checkpoints.
    if (folder / "checkpoints").is_dir():
        cfg = config_from_json(saved_manifest(folder).model)
        return PolicySource(name, cfg, folder / "tokenizer", workdir=folder)
    janus_folder = JanusFolder(folder)
    return PolicySource(
        name, janus_folder.cfg, folder, janus_folder=janus_folder, revision=revision
    )


def files_digest(files: Collection[pathlib.Path]) -> str:
    """Hash of the names and the bytes of some files."""

    def digest(file: pathlib.Path) -> str:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    # Hashing lets other threads run.
    ordered = sorted(files)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        digests = list(pool.map(digest, ordered))
    return json_digest(dict(zip((file.name for file in ordered), digests, strict=True)))
