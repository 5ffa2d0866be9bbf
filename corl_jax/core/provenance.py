"""Where numbers come from: the machine and the library versions, as text and for JSON files."""

from __future__ import annotations

import json
import os
import pathlib
import platform
import subprocess
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


def commit() -> str | None:
    """The commit of this package, from its checkout or from its installation; None where neither says.

    Files that differ from the commit add ``, changed``.
    """
    root = pathlib.Path(__file__).parents[2]
    if (root / ".git").exists():
        head = _git(root, "rev-parse", "HEAD")
        if head is None:
            return None
        changes = _git(root, "status", "--porcelain", "--untracked-files=no")
        return head + (", changed" if changes else "")

    # pip writes this file for what it installs from a repository.
    direct_url = metadata.distribution("corl_jax").read_text("direct_url.json")
    source = json.loads(direct_url) if direct_url else {}
    return source["vcs_info"]["commit_id"] if "vcs_info" in source else None


def _git(root: pathlib.Path, *arguments: str) -> str | None:
    """What git prints, or None where it is missing or refuses."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
