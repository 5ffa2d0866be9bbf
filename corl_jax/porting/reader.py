"""Reads the weights of a model folder as parameters on the devices, one tensor at a time.

Host memory stays near the size of the largest tensor: each tensor is read, brought into the layout
of its parameter, put onto the devices and released before the next one is read.
"""

from __future__ import annotations

import functools
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from tqdm import tqdm

from corl_jax.core.types import Params
from corl_jax.porting.rules import (
    CheckpointTensor,
    Shape,
    TensorRule,
    check_tensor_names,
    checkpoint_tensors,
)
from corl_jax.porting.tensors import WEIGHT_PATTERNS, WeightFiles, open_weights

STACK_ON_HOST_BYTES = 2**28
"""Up to this size the layers of a parameter are stacked on the host. A larger parameter is filled
layer by layer on the devices."""


class CheckpointReader:
    """The weight files of a folder whose tensors fit a model.

    Attributes:
      weights: the opened files.
      tensors: every tensor that the model needs, by its name in the table.
    """

    def __init__(
        self,
        folder: str | pathlib.Path,
        param_shapes: Mapping[str, Shape],
        rules: Sequence[TensorRule],
        unused: Sequence[str],
        rename: Callable[[str, frozenset[str]], str] = lambda name, stored: name,
        patterns: Sequence[str] = WEIGHT_PATTERNS,
        extra_patterns: Sequence[str] = (),
    ):
        """Reads names and shapes only, and checks them.

        Args:
          folder: with the weights.
          param_shapes: shapes of the model's parameters by path.
          rules: the table from tensors to parameters.
          unused: patterns of tensor names that no model reads.
          rename: ``(name in the table, all names in the files) -> name in the files``.
          patterns: see ``open_weights``.
          extra_patterns: see ``open_weights``.

        Raises:
          UserError: no weights, a damaged file, or names and shapes that do not fit.
        """
        self.weights: WeightFiles = open_weights(folder, patterns, extra_patterns)
        self.tensors: dict[str, CheckpointTensor] = checkpoint_tensors(param_shapes, rules)

        # Some writers use other names than the table; files are read by the names they have.
        stored = {name: header.shape for name, header in self.weights.headers.items()}
        self._stored_names = {name: rename(name, frozenset(stored)) for name in self.tensors}
        expected = {self._stored_names[name]: t.shape for name, t in self.tensors.items()}
        check_tensor_names(expected, stored, unused, str(folder))

        self._tensors_of_param = _tensors_by_param(self.tensors)

    def param_dtype(self, path: str) -> np.dtype:
        """The dtype for a parameter that is not trained: bfloat16 if stored so, else float32."""
        # All tensors of a parameter have one dtype in practice: the first decides.
        name, _ = self._tensors_of_param[path][0]
        stored = self.weights.headers[self._stored_names[name]].dtype
        return stored if stored == ml_dtypes.bfloat16 else np.dtype(np.float32)

    def unused_names(self) -> list[str]:
        """Names of the tensors in the files that no parameter is made of."""
        return sorted(self.weights.headers.keys() - set(self._stored_names.values()))

    def load_params(self, structs: Mapping[str, jax.ShapeDtypeStruct]) -> Params:
        """Reads parameters onto the devices.

        Args:
          structs: shape, dtype and sharding of each parameter to read, by path.

        Raises:
          UserError: a damaged file, or a tensor with NaN or infinity.
        """
        # The bar counts bytes of parameters, which need not have the dtype of the file.
        total = sum(_nbytes(struct) for struct in structs.values())
        params = {}
        with tqdm(total=total, desc="load weights", unit="B", unit_scale=True, delay=1) as bar:
            for path, struct in structs.items():
                params[path] = self._load_param(path, struct)
                bar.update(_nbytes(struct))
        return params

    def _load_param(self, path: str, struct: jax.ShapeDtypeStruct) -> jax.Array:
        # A generator: no layer is read before it is needed.
        layers = self._read_layers(path, struct.dtype)

        _, rule = self._tensors_of_param[path][0]
        if not rule.stacked:
            return _to_device(next(layers), struct.sharding)
        if _nbytes(struct) <= STACK_ON_HOST_BYTES:
            return _to_device(np.stack(list(layers)), struct.sharding)

        # Too large for the host: one layer at a time is written into zeros on the devices.
        layer_sharding = _without_layer_axis(struct.sharding)
        zeros = jax.jit(jnp.zeros, static_argnums=(0, 1), out_shardings=struct.sharding)
        stacked = zeros(struct.shape, struct.dtype)
        for i, layer in enumerate(layers):
            stacked = _write_layer(stacked, _to_device(layer, layer_sharding), i)
        return stacked

    def _read_layers(self, path: str, dtype: np.dtype) -> Iterator[np.ndarray]:
        """The arrays that a parameter is made of: one per layer if it is stacked, else one."""
        for name, rule in self._tensors_of_param[path]:
            # Layout and cast happen on the host, so that devices receive the final array.
            tensor = self.weights.read(self._stored_names[name])
            yield np.ascontiguousarray(rule.to_param(tensor).astype(dtype))


def _tensors_by_param(
    tensors: Mapping[str, CheckpointTensor],
) -> dict[str, list[tuple[str, TensorRule]]]:
    """For each parameter path the names and rules of its tensors, in the order of the layers."""
    tensors_of_param: dict[str, list[tuple[str, TensorRule]]] = {}
    for name, tensor in tensors.items():
        for param_slice in tensor.slices:
            tensors_of_param.setdefault(param_slice.path, []).append((name, param_slice.rule))
    return tensors_of_param


def _nbytes(struct: jax.ShapeDtypeStruct) -> int:
    return math.prod(struct.shape) * struct.dtype.itemsize


def _to_device(array: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    """Shards an array that every process has in full; each device receives its own part."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _without_layer_axis(sharding: jax.sharding.Sharding) -> jax.sharding.Sharding:
    """The sharding of one layer of a stacked parameter."""
    # The first entry of the spec belongs to the axis of the layers.
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))
    return sharding


# Donation lets the update happen in place, so that the parameter is in memory once.
@functools.partial(jax.jit, donate_argnums=0)
def _write_layer(stacked: jax.Array, layer: jax.Array, index: jax.Array | int) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(stacked, layer, index, 0)
