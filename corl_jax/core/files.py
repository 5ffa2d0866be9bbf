"""Writes that survive: a file is complete or absent, whenever the process or the machine ends.

A write that the system refuses (a full disk, a read-only folder) is one line for the user.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
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
            # A leftover of that name may be a link, through which another file would be overwritten.
            temporary.unlink(missing_ok=True)
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

    NaN and infinity become null, since JSON has neither.

    Raises:
      UserError: as ``write_atomically``.
    """
    with name_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    """``value`` with null in the place of numbers that are not finite."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def slug(prompt: str) -> str:
    """The prompt as a file name: letters and digits joined by hyphens, at most 60 characters."""
    # A prompt without letters and digits needs some name too.
    return re.sub(r"\W+", "-", prompt.lower()).strip("-_")[:60].strip("-_") or "picture"


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
