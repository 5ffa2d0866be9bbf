"""The compilers for chips that are not here: are they installed, and do they fit this JAX?

A compiler of another release than JAX may fail in the middle of a program, with a message that says
nothing of releases; so releases are compared first, with what JAX itself requires.
"""

from __future__ import annotations

import importlib.metadata

from packaging.requirements import Requirement

from corl_jax.core.errors import UserError

CUDA_PLUGINS = {"jax-cuda13-plugin": 13, "jax-cuda12-plugin": 12}
"""Packages with the compiler for GPUs, to the release of CUDA that they are for."""


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

    # JAX loads the compiler from a package beside the plug-in, of the same release.
    major = CUDA_PLUGINS[plugins[0]]
    _check_release(plugins[0], f"cuda{major}")
    return major


def _installed(package: str) -> str | None:
    """The release of a package that is installed; None for none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _check_release(package: str, extra: str) -> None:
    """Raises unless an installed package is of a release that JAX's ``extra`` requires.

    Raises:
      UserError: it is not.
    """
    jax_version = importlib.metadata.version("jax")
    version = importlib.metadata.version(package)
    for line in importlib.metadata.requires("jax") or []:
        requirement = Requirement(line)
        is_required = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        if requirement.name != package or not is_required:
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            raise UserError(
                f"{package} must be {requirement.specifier} for jax {jax_version}; got {version}. "
                f"pip install 'jax[{extra}]=={jax_version}'"
            )
