"""JAX settings that must be made before anything is compiled, and names of dtypes in configs."""

from __future__ import annotations

import os
import pathlib

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from corl_jax.core.accelerators import leave_out_missing_accelerators
from corl_jax.core.errors import UserError

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def cache_folder() -> pathlib.Path:
    """The folder ``corl_jax`` in the user's cache folder (``$XDG_CACHE_HOME`` or ``~/.cache``)."""
    home = (
        os.environ["XDG_CACHE_HOME"]
        if os.environ.get("XDG_CACHE_HOME")
        else pathlib.Path.home() / ".cache"
    )
    return pathlib.Path(home) / "corl_jax"


def set_up_jax() -> None:
    """Turns on the persistent compilation cache, and random numbers that do not depend on the mesh.

    On a machine without an accelerator it chooses the CPU, see ``core.accelerators``.
    A cache folder that the user chose (``JAX_COMPILATION_CACHE_DIR``) stays.
    """
    leave_out_missing_accelerators()
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
        # JAX's default, one second, would leave out many programs of a small model.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    # Random numbers must not change with the sharding of what they fill.
    jax.config.update("jax_threefry_partitionable", True)


def set_cpu_devices(count: int) -> None:
    """Splits the CPU into ``count`` JAX devices.

    Call it before JAX looks at its devices. It has no effect where JAX computes on an accelerator.
    """
    if count > 1:
        jax.config.update("jax_num_cpu_devices", count)


def compute_dtype(name: str) -> DTypeLike:
    """The dtype of activations; ``auto`` is float32 on a CPU and bfloat16 elsewhere.

    Raises:
      UserError: unknown name.
    """
    if name == "auto":
        return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    if name not in DTYPES:
        raise UserError(f"unknown compute_dtype {name!r}; expected auto, {', '.join(DTYPES)}")
    return DTYPES[name]
