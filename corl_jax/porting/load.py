"""Foreign folders to parameters, tensor by tensor. In: a Hugging Face folder of either layout; out: placed ``Params``.

Host memory stays near the largest tensor: each is read, turned into our layout, placed, and let go.
"""

from __future__ import annotations

import functools
import json
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from tqdm import tqdm

from corl_jax.core.errors import UserError
from corl_jax.core.trees import flatten_abstract
from corl_jax.core.types import Params
from corl_jax.data.text import TextTokenizer
from corl_jax.models.config import JanusConfig
from corl_jax.models.unified import abstract
from corl_jax.porting.formats import Format, format_of
from corl_jax.porting.mapping import Rule, Tensor, check_names, plan
from corl_jax.porting.tensors import Weights, open_weights

WHOLE = 2**28
"""Bytes up to which stacked layers are put together on the host; larger stacks are filled layer by layer in place."""


def read_json(folder: str | pathlib.Path, name: str) -> Any:
    """A JSON file of a model folder.

    Raises:
      UserError: no such file, or not JSON.
    """
    path = pathlib.Path(folder) / name
    if not path.is_file():
        raise UserError(f"there is no {name} in {str(folder)!r}; expected a Hugging Face model folder")
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
      weights: its files.
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
        self.weights: Weights = open_weights(path)
        self._tensors = foreign_plan(self.cfg, self.format)
        found = {name: header.shape for name, header in self.weights.headers.items()}
        self._prefix = self.format.prefix if not any(name.startswith(self.format.prefix) for name in found) else ""
        wanted = {self._name(name): tensor.shape for name, tensor in self._tensors.items()}
        check_names(wanted, found, self.format.unused, str(path))
        _check_preprocessor(self.path)
        self._sources = _sources(self._tensors)

    def _name(self, name: str) -> str:
        """The name in the files, which older writers left without the prefix of the layout."""
        return name.removeprefix(self._prefix)

    def dtype(self, path: str) -> np.dtype:
        """How one of our parameters is held when it is only used: bfloat16 where the files have that, else float32."""
        stored = self.weights.headers[self._name(self._sources[path][0][0])].dtype
        return stored if stored == ml_dtypes.bfloat16 else np.dtype(np.float32)

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

    def unused(self) -> list[str]:
        """Tensors of the files that no computation reads."""
        used = {self._name(name) for name in self._tensors}
        return sorted(self.weights.headers.keys() - used)

    def params(self, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> Params:
        """Parameters ``wanted`` (shape, dtype and sharding by path), placed.

        Raises:
          UserError: a damaged file, or numbers that are none.
        """
        total = sum(_nbytes(struct) for struct in wanted.values())
        params = {}
        with tqdm(total=total, desc="load weights", unit="B", unit_scale=True, delay=1) as bar:
            for path, struct in wanted.items():
                params[path] = self._param(path, struct)
                bar.update(_nbytes(struct))
        return params

    def _param(self, path: str, struct: jax.ShapeDtypeStruct) -> jax.Array:
        parts = self._parts(path, struct.dtype)
        if not self._sources[path][0][1].stacked:
            return _place(next(parts), struct.sharding)
        if _nbytes(struct) <= WHOLE:
            return _place(np.stack(list(parts)), struct.sharding)
        layer = _without_layers(struct.sharding)
        out = jax.jit(jnp.zeros, static_argnums=(0, 1), out_shardings=struct.sharding)(struct.shape, struct.dtype)
        for i, part in enumerate(parts):
            out = _write_layer(out, _place(part, layer), i)
        return out

    def _parts(self, path: str, dtype: Any) -> Iterator[np.ndarray]:
        """What our parameter is made of, layer by layer."""
        for name, rule in self._sources[path]:
            yield np.ascontiguousarray(rule.inward(self.weights.read(self._name(name))).astype(dtype))


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
    return opened.params(
        {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here) for path, leaf in leaves.items()}
    )


@functools.cache
def foreign_plan(cfg: JanusConfig, layout: Format) -> dict[str, Tensor]:
    """Every tensor of the layout at these sizes, and what it is made of."""
    return plan({path: leaf.shape for path, leaf in flatten_abstract(abstract(cfg)).items()}, layout.rules)


def _sources(tensors: Mapping[str, Tensor]) -> dict[str, list[tuple[str, Rule]]]:
    """For each of our paths the foreign names that fill it, in order of layers, with the rule."""
    sources: dict[str, list[tuple[str, Rule]]] = {}
    for name, tensor in tensors.items():
        for piece in tensor.pieces:
            sources.setdefault(piece.path, []).append((name, piece.rule))
    return sources


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


def _nbytes(struct: jax.ShapeDtypeStruct) -> int:
    return math.prod(struct.shape) * struct.dtype.itemsize


def _place(array: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    """Puts a host array that every process has onto the devices; each takes its own part."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _without_layers(sharding: Any) -> Any:
    """The placement of one layer of a stacked parameter."""
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
    return sharding


@functools.partial(jax.jit, donate_argnums=0)
def _write_layer(stacked: jax.Array, layer: jax.Array, index: Any) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(stacked, layer, index, 0)
