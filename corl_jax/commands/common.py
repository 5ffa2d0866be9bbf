"""Flags and checks that several commands share."""

from __future__ import annotations

import argparse
import math
import pathlib
from collections.abc import Sequence

from corl_jax.core.errors import UserError
from corl_jax.core.paths import check_writable, user_path


def add_policy(parser: argparse.ArgumentParser) -> None:
    """Adds ``--policy``."""
    parser.add_argument(
        "--policy",
        required=True,
        help="tiny (the shipped base), a Hugging Face folder or a work directory",
    )


def add_devices(parser: argparse.ArgumentParser) -> None:
    """Adds ``--devices``."""
    text = "how many devices of this host share a policy that is too large for one (default: 1)"
    parser.add_argument("--devices", type=int, default=1, help=text)


def path_flag(text: str) -> pathlib.Path:
    """The type of flags that are paths: ``user_path``, with the name of the flag in errors."""
    try:
        return user_path(text, "it")
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def number_flag(text: str) -> float:
    """The type of flags that are numbers: a float that is neither NaN nor infinite."""
    # argparse adds the name of the flag to the message.
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"it must be a finite number; got {text!r}")
    return number


def check_file(path: pathlib.Path, flag: str, overwrite: bool) -> None:
    """Refuses a file that cannot be written or would be replaced.

    Raises:
      UserError: before any work is done.
    """
    # A file, and a new one unless it may be replaced.
    if path.is_dir():
        raise UserError(f"{flag} must be a file; got the folder {str(path)!r}")
    if path.exists() and not overwrite:
        raise UserError(
            f"{flag} {str(path)!r} exists; choose another file, or pass --overwrite to replace it"
        )
    check_writable(path, flag)


def check_folder(folder: pathlib.Path, paths: Sequence[pathlib.Path], overwrite: bool) -> None:
    """Refuses an ``--out`` that cannot be a folder, and ``paths`` in it that would be replaced.

    Raises:
      UserError: before any work is done.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {str(folder)!r} is a file; expected a folder")
    check_writable(folder, "--out")
    # Only files of these names would be replaced; others may be there.
    existing = [path for path in paths if path.exists()]
    if existing and not overwrite:
        raise UserError(
            f"{str(existing[0])!r} exists; choose another --out, or pass --overwrite to replace it"
        )
