"""Who ran what, where and when: ``run.json`` beside the numbers. In: a command; out: a file that the report reads."""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import platform
from importlib import metadata
from typing import Any

import jax

from corl_jax import __version__

FILE = "run.json"
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def versions() -> dict[str, str]:
    """Of Python, this package and the libraries that decide numbers."""
    found = {name: metadata.version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), "corl_jax": __version__} | found


def machine() -> str:
    """The machine in words: system, cores, devices. No host name."""
    kinds = sorted({device.device_kind for device in jax.devices()})
    processor = _processor()
    cores = f"{os.cpu_count()} CPU cores" + (f" ({processor})" if processor else "")
    return f"{platform.system()} {platform.machine()}, {cores}, {jax.device_count()} JAX device(s): {', '.join(kinds)}"


def record_run(workdir: pathlib.Path, command: str) -> None:
    """Writes ``run.json`` unless it is there, so that a resumed run keeps its first date.

    Args:
      workdir: exists.
      command: the line that started the run.
    """
    path = workdir / FILE
    if path.exists():
        return
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    value: dict[str, Any] = {"command": command, "started": now, "machine": machine(), "versions": versions()}
    part = path.with_suffix(".json.part")
    part.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
    part.replace(path)


def _processor() -> str:
    """Name of the processor where the system tells it, else an empty text."""
    path = pathlib.Path("/proc/cpuinfo")
    if not path.is_file():
        return platform.processor()
    lines = path.read_text("utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return " ".join(names[0].split()) if names else platform.processor()
