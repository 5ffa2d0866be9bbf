"""Where a policy comes from: the shipped base, a Hugging Face folder or hub id, a work directory; one way to open all.

In: what a user typed. Out: sizes, parameters on the host or placed, the folder of the text tokenizer.
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
from corl_jax.engine.handoff import saved_manifest, saved_shapes
from corl_jax.engine.remote_workdir import only_folders
from corl_jax.models.janus.config import ImageTokenizerConfig, JanusConfig, VisionConfig
from corl_jax.models.language_model import DecoderConfig
from corl_jax.porting import hub
from corl_jax.porting.janus.folder import Folder
from corl_jax.porting.workdir_policy import load_merged

TINY = "tiny"


def tiny_folder() -> pathlib.Path:
    """The shipped base policy, also inside an installed wheel."""
    return pathlib.Path(str(importlib.resources.files("corl_jax.assets"))) / "tiny"


def config_to_json(cfg: JanusConfig) -> dict[str, Any]:
    """Sizes as JSON, for manifests."""
    return json.loads(json.dumps(dataclasses.asdict(cfg)))


def config_from_json(raw: Mapping[str, Any]) -> JanusConfig:
    """The inverse of ``config_to_json``."""
    vq = dict(raw["image_tokenizer"])
    vq["channel_multipliers"] = tuple(vq["channel_multipliers"])
    return JanusConfig(
        VisionConfig(**raw["vision"]),
        DecoderConfig(**raw["decoder"]),
        ImageTokenizerConfig(**vq),
        raw["gen_head_dim"],
    )


@dataclasses.dataclass(frozen=True)
class Source:
    """An opened source of weights.

    Attributes:
      name: what the user typed.
      cfg: sizes of the model.
      tokenizer: folder with the files that travel beside the weights.
      folder: Hugging Face folder, opened, or None.
      workdir: work directory, or None.
    """

    name: str
    cfg: JanusConfig
    tokenizer: pathlib.Path
    folder: Folder | None = None
    workdir: pathlib.Path | None = None

    def paths(self) -> set[str] | None:
        """Parameter paths of a work directory, which may hold only a part of the model; None for a whole model."""
        return None if self.workdir is None else set(saved_shapes(self.workdir))

    def params(self, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> Params:
        """Parameters ``wanted`` (shape, dtype and sharding by path), placed; adapters are part of their kernels."""
        if self.workdir is not None:
            return load_merged(self.workdir, wanted)
        assert self.folder is not None
        return self.folder.reader.params(wanted)

    def held(self, path: str) -> np.dtype:
        """In which dtype a parameter is held when only used: as stored, but the image tokenizer in float32."""
        if self.folder is None or path.startswith("image_tokenizer/"):
            return np.dtype(np.float32)
        return self.folder.reader.dtype(path)

    def load_tokenizer(self) -> TextTokenizer:
        """The text tokenizer.

        Raises:
          UserError: there is none, or it belongs to another model.
        """
        return (
            TextTokenizer.load(self.tokenizer)
            if self.folder is None
            else self.folder.load_tokenizer()
        )


def open_source(name: str) -> Source:
    """Opens ``tiny``, a Hugging Face folder, a model of the Hugging Face hub, or a work directory.

    Raises:
      UserError: nothing of the kind is there, or it is not a policy of ours.
    """
    only_folders(name)
    folder = tiny_folder() if name == TINY else pathlib.Path(name).expanduser()
    if not folder.is_dir() and hub.is_id(name):
        folder = hub.download(name)
    if not folder.is_dir():
        raise UserError(
            f"policy {name!r} is no folder; expected {TINY!r}, a Hugging Face folder or hub id, or a work directory"
        )
    if (folder / "checkpoints").is_dir():
        manifest = saved_manifest(folder)
        return Source(name, config_from_json(manifest.model), folder / "tokenizer", workdir=folder)
    opened = Folder(folder)
    return Source(name, opened.cfg, folder, folder=opened)
