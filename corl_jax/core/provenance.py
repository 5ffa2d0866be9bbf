"""Where numbers come from: the machine and the versions. In: nothing but the system; out: words for people and JSON."""

from __future__ import annotations

import os
import pathlib
import platform
from importlib import metadata

import jax

from corl_jax import __version__

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def versions() -> dict[str, str]:
    """Of Python, this package and the libraries that decide numbers."""
    return {"python": platform.python_version(), "corl_jax": __version__} | versions_of(*LIBRARIES)


def versions_of(*libraries: str) -> dict[str, str]:
    """Of installed libraries by name."""
    return {name: metadata.version(name) for name in libraries}


def machine() -> str:
    """The machine in words: system, cores, devices. No host name."""
    kinds = sorted({device.device_kind for device in jax.devices()})
    processor = _processor()
    cores = f"{os.cpu_count()} CPU cores" + (f" ({processor})" if processor else "")
    return f"{platform.system()} {platform.machine()}, {cores}, {jax.device_count()} x {', '.join(kinds)}"


def _processor() -> str:
    """Name of the processor where the system tells it, else an empty text."""
    path = pathlib.Path("/proc/cpuinfo")
    if not path.is_file():
        return platform.processor()
    lines = path.read_text("utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return " ".join(names[0].split()) if names else platform.processor()
