"""Reads the policy of a work directory, with adapters merged into the kernels they belong to."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import jax
from jax.sharding import NamedSharding, PartitionSpec

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.errors import UserError
from corl_jax.core.types import Params
from corl_jax.engine.checkpoints.handoff import load_params, saved_manifest, saved_shapes
from corl_jax.models.lora import is_adapter, kernel_of, merge_adapters


def load_merged_params(folder: pathlib.Path, structs: Mapping[str, jax.ShapeDtypeStruct]) -> Params:
    """Reads parameters of the newest checkpoint onto the devices; adapters are added in float32.

    Args:
      folder: a work directory or one of its step folders.
      structs: shape, dtype and sharding by path, of the model without adapters.

    Raises:
      UserError: as ``engine.checkpoints.handoff.load_params``.
    """
    saved = saved_shapes(folder)

    # Parameters are read in the dtype they were saved in and cast at the end.
    stored_structs = {
        path: struct.update(dtype=saved[path].dtype)
        for path, struct in structs.items()
        if path in saved
    }
    # An adapter is small, so every device receives all of it.
    adapter_structs = {
        path: struct.update(sharding=replicated(structs[kernel_of(path)].sharding))
        for path, struct in saved.items()
        if is_adapter(path) and kernel_of(path) in structs
    }
    params = load_params(folder, dict(structs) | stored_structs | adapter_structs)

    # Kernels and adapters are added in float32, whatever dtype is requested.
    if adapter_structs:
        params = merge_adapters(params, adapter_scale(folder), structs)
    return {path: leaf.astype(structs[path].dtype) for path, leaf in params.items()}


def adapter_scale(folder: pathlib.Path) -> float:
    """The factor of the adapters' product: alpha divided by rank."""
    # A run with adapters adds their scale to the sizes in its manifest.
    model = JsonObject(saved_manifest(folder).model, f"the manifest of {folder}")
    if not model.has("lora"):
        raise UserError(
            f"checkpoint {folder} holds adapters, but its manifest has no lora.scale; "
            "choose another step"
        )
    return model.block("lora").number("scale")


def replicated(sharding: jax.sharding.Sharding) -> jax.sharding.Sharding:
    """A sharding with everything on each of the same devices."""
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec())
    return sharding
