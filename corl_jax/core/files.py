"""Writes that survive: a file is complete or absent, whenever the process or the machine ends.

A write that the system refuses (a full disk, a read-only folder) is one line for the user.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from corl_jax.core.errors import UserError, describe_error


@contextlib.contextmanager
def name_write_errors(path: Path) -> Iterator[None]:
    """A context in which an error of the operating system is about writing ``path``.

    Raises:
      UserError: in place of an OSError; it names ``path`` and the cause.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({describe_error(error)}); free some space on that disk or "
            "check its permissions, then start the same command again"
        ) from error


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes ``content``, text as UTF-8, to ``path`` by way of a temporary file next to it.

    Raises:
      UserError: it cannot be written; what was there is kept.
    """
    temporary = path.with_name(path.name + ".part")
    data = content.encode("utf-8") if isinstance(content, str) else content
    with name_write_errors(path):
        try:
            temporary.write_bytes(data)
            sync(temporary)
            # A rename within one folder is atomic, so no reader ever sees half a file.
            temporary.replace(path)
        # A full disk needs the room more than half a file does.
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        sync(path.parent)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes ``value`` atomically as indented JSON; creates the folder when it is missing.

    Raises:
      UserError: as ``write_atomically``.
    """
    with name_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(value, indent=2) + "\n")


def sync(path: Path) -> None:
    """Returns once a file, or the list of names in a folder, is on the disk.

    Raises:
      OSError: the disk is full or broken.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
