"""Where numbers come from: the machine and the library versions, as text and for JSON files."""

from __future__ import annotations

import os
import pathlib
import platform
from importlib import metadata

import jax

from corl_jax import __version__

# The libraries whose version can change a number.
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of ``LIBRARIES``."""
    return {"python": platform.python_version(), "corl_jax": __version__} | versions_of(*LIBRARIES)


def versions_of(*libraries: str) -> dict[str, str]:
    """Versions of installed libraries by name."""
    return {name: metadata.version(name) for name in libraries}


def machine() -> str:
    """The machine on one line: operating system, CPU cores, devices. The host name is left out."""
    kinds = sorted({device.device_kind for device in jax.devices()})
    processor = _processor_name()
    cores = f"{os.cpu_count()} CPU cores" + (f" ({processor})" if processor else "")
    devices = f"{jax.device_count()} x {', '.join(kinds)}"
    return f"{platform.system()} {platform.machine()}, {cores}, {devices}"


def _processor_name() -> str:
    """Name of the processor, or an empty string where the system does not give one."""
    path = pathlib.Path("/proc/cpuinfo")
    if not path.is_file():
        return platform.processor()

    # Linux: every core has a line "model name : ..."; the first one will do.
    lines = path.read_text("utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return " ".join(names[0].split()) if names else platform.processor()
