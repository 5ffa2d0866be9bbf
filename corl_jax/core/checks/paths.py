"""Paths that a user gives: whether this system can have them, write them, and where links lead."""

from __future__ import annotations

import os
import pathlib

from corl_jax.core.errors import UserError

MAX_NAME_BYTES = 255
"""Longest name of one file or folder on the usual file systems."""


def user_path(text: str | os.PathLike[str], label: str) -> pathlib.Path:
    """The path ``text`` with ``~`` expanded; nothing has to be there.

    Every path of a user comes through here before it is looked at, since the functions of
    ``pathlib`` raise errors of many kinds over a path that the system cannot have.

    Args:
      text: as the user gave it.
      label: what errors call it: a flag, a key of the config, a column of a record.

    Raises:
      UserError: a name is too long or has a NUL in it, the home folder of a user is unknown, or a
        folder on the way may not be looked into.
    """
    try:
        path = pathlib.Path(text).expanduser()
        longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
        if longest > MAX_NAME_BYTES:
            raise UserError(
                f"{label} must have names of at most {MAX_NAME_BYTES} bytes; got {longest} bytes "
                f"in {_shorten(text)}; choose a shorter name"
            )
        path.stat()
    # It need not exist. What must be a folder and is a file gets an error of its own later.
    except (FileNotFoundError, NotADirectoryError):
        return path
    # RuntimeError: no home folder. ValueError: NUL, or characters that no file name can have.
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"{label} must be a path that can be opened; got {_shorten(text)} ({reason}); choose "
            "another path"
        ) from None
    return path


def check_writable(path: pathlib.Path, label: str) -> None:
    """Checks that a file or folder can be made or replaced at ``path``, before any work is done.

    Raises:
      UserError: a folder above it is a file or may not be written, or the file may not be.
    """
    # What is there, or else the folder in which it would be made.
    places = (path, *path.parents)
    existing = next((place for place in places if place.exists()), pathlib.Path())
    if existing != path and not existing.is_dir():
        raise UserError(f"{label} {_shorten(path)}: {str(existing)!r} is a file; expected a folder")
    if not os.access(existing, os.W_OK | (os.X_OK if existing.is_dir() else 0)):
        raise UserError(
            f"{label} {_shorten(path)} cannot be written: there is no permission to write to "
            f"{str(existing)!r}; choose another path"
        )


def make_folder(folder: pathlib.Path, label: str) -> None:
    """Makes a folder and those above it, as far as they are missing.

    Raises:
      UserError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{label} {_shorten(folder)} cannot be made ({error.strerror}); choose another path"
        ) from None


def check_inside(path: pathlib.Path, folder: pathlib.Path) -> None:
    """Checks that links do not make ``path``, which is below ``folder``, lead out of ``folder``.

    Raises:
      UserError: they do.
    """
    # Where links lead to themselves, Python 3.13 resolves them to themselves and others raise.
    try:
        target = path.resolve()
        is_inside = target.is_relative_to(folder.resolve()) and not target.is_symlink()
    except (OSError, RuntimeError):
        is_inside = False
    if not is_inside:
        raise UserError(
            f"{_shorten(path)} must be a file of its own in {_shorten(folder)}; got a link that "
            "leads out of that folder; put a copy there in its place"
        )


def _shorten(path: str | os.PathLike[str]) -> str:
    text = repr(str(path))
    return text if len(text) <= 120 else f"{text[:60]}...{text[-40:]}"
