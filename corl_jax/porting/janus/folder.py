"""Folders of Janus models. In: a Hugging Face folder of either layout; out: sizes, tokenizer, a reader of weights."""

from __future__ import annotations

import functools
import json
import pathlib
from typing import Any

import jax

from corl_jax.core.errors import UserError
from corl_jax.core.trees import flatten_abstract
from corl_jax.core.types import Params
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.models.janus.config import JanusConfig
from corl_jax.models.janus.model import abstract
from corl_jax.porting.janus.layouts import Format, format_of
from corl_jax.porting.reader import Reader
from corl_jax.porting.rules import Tensor, plan


def read_json(folder: str | pathlib.Path, name: str) -> Any:
    """A JSON file of a model folder.

    Raises:
      UserError: no such file, or not JSON.
    """
    path = pathlib.Path(folder) / name
    if not path.is_file():
        raise UserError(
            f"there is no {name} in {str(folder)!r}; expected a Hugging Face model folder"
        )
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{str(path)!r} is not JSON ({error}); get the file again") from None


def load_config(folder: str | pathlib.Path) -> JanusConfig:
    """The sizes in ``config.json``, of either layout.

    Raises:
      UserError: no such file, not JSON, or not a Janus model.
    """
    raw = read_json(folder, "config.json")
    return format_of(raw, str(folder)).read_config(raw, str(folder))


class Folder:
    """A model folder, opened: sizes, layout, and tensors that are read when asked for.

    Attributes:
      path: the folder.
      format: its layout.
      cfg: sizes.
      reader: its weights.
    """

    def __init__(self, path: str | pathlib.Path):
        """Reads descriptions only.

        Raises:
          UserError: no model, a damaged file, or names and shapes that do not fit ``config.json``.
        """
        self.raw = raw = read_json(path, "config.json")
        self.path = pathlib.Path(path)
        self.format: Format = format_of(raw, str(path))
        self.cfg = self.format.read_config(raw, str(path))
        prefix = self.format.prefix

        def written(name: str, found: frozenset[str]) -> str:
            """Older writers left the prefix of the layout out."""
            return (
                name
                if any(other.startswith(prefix) for other in found)
                else name.removeprefix(prefix)
            )

        leaves = {path: leaf.shape for path, leaf in flatten_abstract(abstract(self.cfg)).items()}
        self.reader = Reader(path, leaves, self.format.rules, self.format.unused, written)
        _check_preprocessor(self.path)

    def load_tokenizer(self) -> TextTokenizer:
        """The folder's text tokenizer.

        Raises:
          UserError: there is none, or it belongs to a model of another size.
        """
        tokenizer = TextTokenizer.load(self.path)
        known = self.format.image_token_id(self.raw, tokenizer.pad_id, tokenizer.image_id)
        if tokenizer.image_id != known:
            raise UserError(
                f"the tokenizer in {str(self.path)!r} has id {tokenizer.image_id} for the image placeholder, its model "
                f"knows {known}; take the tokenizer files of the same checkpoint (1B and 7B differ)"
            )
        return tokenizer


def load_params(folder: str | pathlib.Path, cfg: JanusConfig) -> Params:
    """Every parameter of the model in float32 on the default device; nothing is missing, nothing is left over.

    Raises:
      UserError: no weights, a damaged file, sizes that are not ``cfg``.
    """
    opened = Folder(folder)
    if opened.cfg != cfg:
        raise UserError(f"the model in {str(folder)!r} has other sizes than the one asked for")
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    leaves = flatten_abstract(abstract(cfg))
    return opened.reader.params(
        {
            path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here)
            for path, leaf in leaves.items()
        }
    )


@functools.cache
def foreign_plan(cfg: JanusConfig, layout: Format) -> dict[str, Tensor]:
    """Every tensor of the layout at these sizes, and what it is made of."""
    return plan(
        {path: leaf.shape for path, leaf in flatten_abstract(abstract(cfg)).items()}, layout.rules
    )


def _check_preprocessor(folder: pathlib.Path) -> None:
    """Refuses pictures prepared otherwise than ``data.images`` does it; a folder need not say."""
    if not (folder / "preprocessor_config.json").is_file():
        return
    raw = read_json(folder, "preprocessor_config.json")
    for name in ("image_mean", "image_std"):
        if name in raw and list(raw[name]) != [0.5] * 3:
            raise UserError(
                f"preprocessor_config.json in {str(folder)!r} has {name}={raw[name]}; this program prepares pictures "
                "with 0.5 as Janus-Pro does; take the file of the original checkpoint"
            )
