"""Opens a policy by the name that a user gives: ``tiny``, a folder, a hub id or a work directory.

Whatever the kind, an opened policy has the sizes of its model, a tokenizer, and parameters that are
read onto the devices.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from corl_jax.core.errors import UserError
from corl_jax.core.types import Params
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.engine.checkpoints.handoff import saved_manifest, saved_shapes
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
    """

    name: str
    cfg: JanusConfig
    tokenizer_folder: pathlib.Path
    janus_folder: JanusFolder | None = None
    workdir: pathlib.Path | None = None

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
    if not folder.is_dir() and hub.is_id(name):
        folder = hub.download(name)
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
    return PolicySource(name, janus_folder.cfg, folder, janus_folder=janus_folder)
