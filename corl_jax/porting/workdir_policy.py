"""A policy out of a work directory: its newest checkpoint, adapters added to the kernels that they lie beside.

In: a work directory or step folder, and what is wanted of it. Out: parameters of the model without adapters, placed.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from corl_jax.core.errors import UserError
from corl_jax.core.types import Params
from corl_jax.engine.handoff import load_params, saved_manifest, saved_shapes
from corl_jax.models.lora import is_adapter, kernel_of, merged


def load_merged(folder: pathlib.Path, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> Params:
    """Parameters ``wanted`` (shape, dtype and sharding by path); kernels with their adapters, summed in float32.

    Raises:
      UserError: as ``engine.handoff.load_params``.
    """
    saved = saved_shapes(folder)
    asked = {
        path: struct.update(dtype=saved[path].dtype)
        for path, struct in wanted.items()
        if path in saved
    }
    beside = {
        path: struct.update(sharding=_whole(wanted[kernel_of(path)].sharding))
        for path, struct in saved.items()
        if is_adapter(path) and kernel_of(path) in wanted
    }
    params = load_params(folder, dict(wanted) | asked | beside)
    if beside:
        params = merged(params, _scale(folder), wanted)
    return {path: leaf.astype(wanted[path].dtype) for path, leaf in params.items()}


def _scale(folder: pathlib.Path) -> float:
    """How much of its adapters a kernel takes."""
    model = saved_manifest(folder).model
    if "lora" not in model:
        raise UserError(
            f"checkpoint {folder} holds adapters, but its manifest has no lora.scale; choose another step"
        )
    return model["lora"]["scale"]


def _whole(sharding: Any) -> Any:
    """The same devices, everything on each of them."""
    return (
        NamedSharding(sharding.mesh, PartitionSpec())
        if isinstance(sharding, NamedSharding)
        else sharding
    )
