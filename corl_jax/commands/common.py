"""Flags and checks that several commands share."""

from __future__ import annotations

import argparse
import pathlib

from corl_jax.core.errors import UserError


def add_policy(parser: argparse.ArgumentParser) -> None:
    """``--policy``."""
    parser.add_argument(
        "--policy",
        required=True,
        help="tiny (the shipped base), a Hugging Face folder or a work directory",
    )


def add_devices(parser: argparse.ArgumentParser) -> None:
    """``--devices``."""
    text = "how many of this host's devices share the policy, for one that is too large for each (default: 1)"
    parser.add_argument("--devices", type=int, default=1, help=text)


def check_file(path: pathlib.Path, flag: str, overwrite: bool) -> None:
    """Refuses a file that cannot be written or would be replaced.

    Raises:
      UserError: before any work is done.
    """
    if path.is_dir():
        raise UserError(f"{flag} {str(path)!r} is a folder; expected a file")
    if path.exists() and not overwrite:
        raise UserError(
            f"{flag} {str(path)!r} exists; choose another file, or pass --overwrite to replace it"
        )
    for part in path.parents:
        if part.exists() and not part.is_dir():
            raise UserError(f"{flag} {str(path)!r}: {str(part)!r} is a file; expected a folder")
