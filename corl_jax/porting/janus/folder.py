"""Opens a Hugging Face folder of a Janus model, in either layout: sizes, tokenizer and weights."""

from __future__ import annotations

import functools
import pathlib

import jax

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.errors import UserError
from corl_jax.core.trees import flatten_abstract
from corl_jax.core.types import Params
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.models.janus.config import JanusConfig
from corl_jax.models.janus.model import abstract
from corl_jax.porting.janus.layouts import CheckpointLayout, detect_layout
from corl_jax.porting.janus.processor_config import check_image_processor
from corl_jax.porting.reader import CheckpointReader
from corl_jax.porting.rules import CheckpointTensor, Shape, checkpoint_tensors


def read_json(folder: str | pathlib.Path, name: str) -> dict[str, object]:
    """Reads a JSON file of a model folder.

    Raises:
      UserError: no such file, or it does not hold a JSON object.
    """
    path = pathlib.Path(folder) / name
    if not path.is_file():
        raise UserError(
            f"there is no {name} in {str(folder)!r}; choose a Hugging Face model folder"
        )
    return dict(JsonObject.read(path, f"{name} of {str(folder)!r}").entries)


def load_config(folder: str | pathlib.Path) -> JanusConfig:
    """Reads the sizes of a model from ``config.json``, in either layout.

    Raises:
      UserError: no such file, not JSON, or not a Janus model.
    """
    raw = read_json(folder, "config.json")
    return detect_layout(raw, str(folder)).read_config(raw, str(folder))


class JanusFolder:
    """An opened model folder, whose tensors are read on request.

    Attributes:
      raw_config: content of ``config.json``.
      path: of the folder.
      layout: of the folder.
      cfg: sizes of the model.
      reader: of the weights.
    """

    def __init__(self, path: str | pathlib.Path):
        """Reads the configuration, and names and shapes of the tensors.

        Raises:
          UserError: not a Janus model, a damaged file, or names and shapes that do not fit
            ``config.json``.
        """
        self.raw_config = read_json(path, "config.json")
        self.path = pathlib.Path(path)
        self.layout: CheckpointLayout = detect_layout(self.raw_config, str(path))
        self.cfg = self.layout.read_config(self.raw_config, str(path))
        prefix = self.layout.prefix

        # If a single name has the prefix, all of them are taken to have it.
        def stored_name(name: str, stored: frozenset[str]) -> str:
            """Older versions of transformers wrote names without the prefix of the layout."""
            has_prefix = any(tensor_name.startswith(prefix) for tensor_name in stored)
            return name if has_prefix else name.removeprefix(prefix)

        self.reader = CheckpointReader(
            path, _param_shapes(self.cfg), self.layout.rules, self.layout.unused, stored_name
        )
        check_image_processor(self.path, self.cfg.image_size)

    def load_tokenizer(self, name: str | None = None) -> TextTokenizer:
        """Reads the text tokenizer of the folder, which errors call ``name`` or by its path.

        Raises:
          UserError: there is no tokenizer, or it belongs to a model of another size.
        """
        # The tokenizer of another size would give wrong ids to every prompt. This id shows it.
        tokenizer = TextTokenizer.load(self.path, name=name)
        model_id = self.layout.image_token_id(self.raw_config, tokenizer.pad_id, tokenizer.image_id)
        if tokenizer.image_id != model_id:
            raise UserError(
                f"the tokenizer in {str(self.path)!r} has id {tokenizer.image_id} for the image "
                f"placeholder, but its model has {model_id}; take the tokenizer files of the same "
                "checkpoint (1B and 7B differ)"
            )
        return tokenizer


def load_params(folder: str | pathlib.Path, cfg: JanusConfig) -> Params:
    """Reads every parameter of a model in float32 onto the default device.

    Raises:
      UserError: no weights, a damaged file, tensors that are missing or unknown, or other sizes
        than ``cfg``.
    """
    # Opening the folder checks names and shapes; no tensor is read before that.
    janus_folder = JanusFolder(folder)
    if janus_folder.cfg != cfg:
        raise UserError(
            f"the model in {str(folder)!r} has other sizes than requested; choose a folder with a "
            "model of the requested size"
        )
    first_device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    structs = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=first_device)
        for path, leaf in flatten_abstract(abstract(cfg)).items()
    }
    return janus_folder.reader.load_params(structs)


@functools.cache
def janus_tensors(cfg: JanusConfig, layout: CheckpointLayout) -> dict[str, CheckpointTensor]:
    """Every tensor of a model of these sizes, by its name in the layout."""
    return checkpoint_tensors(_param_shapes(cfg), layout.rules)


def _param_shapes(cfg: JanusConfig) -> dict[str, Shape]:
    return {path: leaf.shape for path, leaf in flatten_abstract(abstract(cfg)).items()}
