"""Keeps JAX from looking for a TPU or GPU on a machine that has none.

Plug-ins that are installed there (``corl_jax[tpu]``, ``[cuda]``) would print screens of errors before
JAX takes the CPU after all. This file imports no JAX, so that help is quick.
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from importlib import metadata

DEVICE_FILES = (
    "/dev/accel*",  # TPU
    "/dev/vfio/[0-9]*",  # TPU, of later VMs
    "/dev/nvidia*",
    "/dev/dxg",  # NVIDIA under Windows' Linux
)
"""Patterns of files that a machine has where one of these plug-ins finds a device."""
PLATFORMS = "JAX_PLATFORMS"
"""The variable that JAX reads when it is imported."""


def has_accelerator(patterns: Sequence[str] = DEVICE_FILES) -> bool:
    """Whether there may be an accelerator, by the files of its driver.

    Where a plug-in for another kind of device is installed, there may be one too.
    """
    if any(glob.glob(pattern) for pattern in patterns):
        return True
    plugins = {entry.name for entry in metadata.entry_points(group="jax_plugins")}
    return any(not name.startswith("xla_cuda") for name in plugins)


def leave_out_missing_accelerators(
    environment: MutableMapping[str, str] = os.environ,
    modules: Mapping[str, object] = sys.modules,
) -> None:
    """Chooses the CPU where there is nothing else and the user has chosen nothing.

    Call it before JAX looks at its devices. Processes that this one starts inherit the choice.
    """
    if PLATFORMS in environment or not sys.platform.startswith("linux") or has_accelerator():
        return
    environment[PLATFORMS] = "cpu"
    # JAX has read the variable already.
    if "jax" in modules:
        import jax

        if jax.config.jax_platforms is None:  # type: ignore[attr-defined]
            jax.config.update("jax_platforms", "cpu")
