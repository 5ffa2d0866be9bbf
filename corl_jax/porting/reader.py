"""Tensors of a model folder read as parameters, tensor by tensor. In: a folder and a table; out: placed ``Params``.

Host memory stays near the largest tensor: each is read, turned into our layout, placed, and let go.
"""

from __future__ import annotations

import functools
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from tqdm import tqdm

from corl_jax.core.types import Params
from corl_jax.porting.rules import Rule, Shape, Tensor, check_names, plan
from corl_jax.porting.tensors import WEIGHTS, Weights, open_weights

WHOLE = 2**28
"""Bytes up to which stacked layers are put together on the host; larger stacks are filled layer by layer in place."""


class Reader:
    """The weights of a folder, whose names and shapes fit a model; they are read when asked for.

    Attributes:
      weights: its files.
      tensors: every foreign tensor that the model is made of.
    """

    def __init__(
        self,
        folder: str | pathlib.Path,
        leaves: Mapping[str, Shape],
        rules: Sequence[Rule],
        unused: Sequence[str],
        rename: Callable[[str, frozenset[str]], str] = lambda name, found: name,
        kinds: Sequence[str] = WEIGHTS,
        beside: Sequence[str] = (),
    ):
        """Reads descriptions only.

        Args:
          folder: with the weights.
          leaves: shapes of our parameters by path.
          rules: the table.
          unused: patterns of tensors that are knowingly left alone.
          rename: from a name of the table, and all names in the files, to the one that it has there.
          kinds, beside: see ``open_weights``.

        Raises:
          UserError: no weights, a damaged file, or names and shapes that do not fit.
        """
        self.weights: Weights = open_weights(folder, kinds, beside)
        self.tensors: dict[str, Tensor] = plan(leaves, rules)
        found = {name: header.shape for name, header in self.weights.headers.items()}
        self._names = {name: rename(name, frozenset(found)) for name in self.tensors}
        wanted = {self._names[name]: tensor.shape for name, tensor in self.tensors.items()}
        check_names(wanted, found, unused, str(folder))
        self._sources = _sources(self.tensors)

    def dtype(self, path: str) -> np.dtype:
        """How one of our parameters is held when it is only used: bfloat16 where the files have that, else float32."""
        stored = self.weights.headers[self._names[self._sources[path][0][0]]].dtype
        return stored if stored == ml_dtypes.bfloat16 else np.dtype(np.float32)

    def unused(self) -> list[str]:
        """Tensors of the files that no computation reads."""
        return sorted(self.weights.headers.keys() - set(self._names.values()))

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
        out = jax.jit(jnp.zeros, static_argnums=(0, 1), out_shardings=struct.sharding)(
            struct.shape, struct.dtype
        )
        for i, part in enumerate(parts):
            out = _write_layer(out, _place(part, layer), i)
        return out

    def _parts(self, path: str, dtype: Any) -> Iterator[np.ndarray]:
        """What our parameter is made of, layer by layer."""
        for name, rule in self._sources[path]:
            yield np.ascontiguousarray(
                rule.inward(self.weights.read(self._names[name])).astype(dtype)
            )


def _sources(tensors: Mapping[str, Tensor]) -> dict[str, list[tuple[str, Rule]]]:
    """For each of our paths the foreign names that fill it, in order of layers, with the rule."""
    sources: dict[str, list[tuple[str, Rule]]] = {}
    for name, tensor in tensors.items():
        for piece in tensor.pieces:
            sources.setdefault(piece.path, []).append((name, piece.rule))
    return sources


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
