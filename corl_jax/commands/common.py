"""Flags and checks that several commands share."""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

from corl_jax.core.errors import UserError
from corl_jax.core.files import write_whole


def add_policy(parser: argparse.ArgumentParser) -> None:
    """``--policy``."""
    parser.add_argument(
        "--policy", required=True, help="tiny (the shipped base), a Hugging Face folder or a work directory"
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
        raise UserError(f"{flag} {str(path)!r} exists; choose another file, or pass --overwrite to replace it")
    for part in path.parents:
        if part.exists() and not part.is_dir():
            raise UserError(f"{flag} {str(path)!r}: {str(part)!r} is a file; expected a folder")


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes ``value`` whole or not at all; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(value, indent=2) + "\n")
