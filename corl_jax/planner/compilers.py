"""The compilers for chips that are not here: are they installed, and do they fit this JAX?

A compiler of another release than JAX may fail in the middle of a program, with a message that says
nothing of releases; so releases are compared first, with what JAX itself requires.
"""

from __future__ import annotations

import importlib.metadata

from packaging.requirements import Requirement

from corl_jax.core.errors import UserError
from corl_jax.planner.gpu_targets import GPU_TARGETS

CUDA_PLUGINS = {"jax-cuda13-plugin": 13, "jax-cuda12-plugin": 12}
"""Packages with the compiler for GPUs, to the release of CUDA that they are for."""


def check_releases(topology: str) -> None:
    """Raises where a compiler that is installed is of another release than JAX; before JAX is
    imported, which warns of it in lines of its own.

    Raises:
      UserError: it is; ``topology`` says which compiler it is about.
    """
    if topology.partition(":")[0] in GPU_TARGETS:
        if any(_installed(plugin) is not None for plugin in CUDA_PLUGINS):
            cuda_major_version(topology)
    elif _installed("libtpu") is not None:
        check_libtpu(topology)


def check_libtpu(topology: str) -> None:
    """Raises unless libtpu is installed in the release that JAX requires.

    Raises:
      UserError: it is not; ``topology`` is for the message.
    """
    if _installed("libtpu") is None:
        raise UserError(
            f"--topology={topology} needs libtpu to compile for it, which is not installed; "
            "pip install 'corl_jax[tpu]'"
        )
    _check_release("libtpu", "tpu")


def cuda_major_version(topology: str) -> int:
    """Release of CUDA of the installed plug-in: 12 or 13.

    Raises:
      UserError: there is none, or one of another release than JAX; ``topology`` is for the message.
    """
    plugins = [name for name in CUDA_PLUGINS if _installed(name) is not None]
    if not plugins:
        raise UserError(
            f"--topology={topology} needs JAX's plug-in of CUDA to compile for it, which is not "
            "installed (no GPU is needed); pip install 'corl_jax[cuda]'"
        )

    # JAX loads the compiler from a package beside the plug-in, which the plug-in requires.
    plugin, major = plugins[0], CUDA_PLUGINS[plugins[0]]
    _check_release(plugin, f"cuda{major}")
    _check_release(f"jax-cuda{major}-pjrt", f"cuda{major}", requirer=plugin)
    return major


def _installed(package: str) -> str | None:
    """The release of a package that is installed; None for none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _check_release(package: str, extra: str, requirer: str = "jax") -> None:
    """Raises unless an installed package is of a release that ``requirer`` requires.

    Args:
      package: one that is installed.
      extra: of JAX, which installs the package.
      requirer: JAX, or another package of that extra.

    Raises:
      UserError: it is not.
    """
    jax_version = importlib.metadata.version("jax")
    version = importlib.metadata.version(package)
    for line in importlib.metadata.requires(requirer) or []:
        requirement = Requirement(line)
        is_required = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        if requirement.name != package or not is_required:
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            required_by = f"{requirer} {importlib.metadata.version(requirer)}"
            raise UserError(
                f"{package} must be {requirement.specifier} for {required_by}; got {version}. "
                f"pip install 'jax[{extra}]=={jax_version}'"
            )
