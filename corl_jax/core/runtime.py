"""What every program sets before JAX compiles anything. In: nothing but the environment; out: JAX's own settings."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from corl_jax.core.errors import UserError

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def cache_folder() -> pathlib.Path:
    """``corl_jax`` in the user's cache folder: ``$XDG_CACHE_HOME``, or ``~/.cache``."""
    home = (
        os.environ["XDG_CACHE_HOME"]
        if os.environ.get("XDG_CACHE_HOME")
        else pathlib.Path.home() / ".cache"
    )
    return pathlib.Path(home) / "corl_jax"


def set_up_jax() -> None:
    """Persistent compilation cache, and sampling that does not depend on the mesh.

    A cache folder that was chosen before (``JAX_COMPILATION_CACHE_DIR``) is kept.
    """
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_threefry_partitionable", True)


def cpu_devices(count: int) -> None:
    """Has JAX see the CPU, if that is what it computes on, as ``count`` devices; before it looks at any."""
    if count > 1:
        jax.config.update("jax_num_cpu_devices", count)


def compute_dtype(name: str) -> Any:
    """The dtype of activations; ``auto`` is float32 on CPU and bfloat16 elsewhere.

    Raises:
      UserError: unknown name.
    """
    if name == "auto":
        return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    if name not in DTYPES:
        raise UserError(f"unknown compute_dtype {name!r}; expected auto, {', '.join(DTYPES)}")
    return DTYPES[name]
