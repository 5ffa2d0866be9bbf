"""What a text says about the machine and the person that it comes from: taken out, or found.

``reduce_private`` is for texts that we write; ``find_private`` is the last look at what others read.
"""

from __future__ import annotations

import contextlib
import getpass
import pathlib
import re
import socket
from collections.abc import Iterable
from typing import Any

NAME = r"""[^/\s'"<>,:;|\\=]"""
ADDRESS = r"(?P<scheme>[a-z][a-z0-9+.-]*://)(?P<rest>[^\s'\"<>,;|]*)"
PATH = rf"(?<![\w.~*?\])<-])(?:~[\w.-]*|(?:\.\./*)+)?/(?:{NAME}+/+)*(?P<name>{NAME}+)/*"
LOCATION = re.compile(f"{ADDRESS}|{PATH}")
"""An address with a scheme, or an absolute path, one from a home folder or one that leads upwards."""

PUBLIC_HOSTS = ("https://huggingface.co/", "https://github.com/", "https://arxiv.org/")

TOKENS = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|\bgh[pousr]_[A-Za-z0-9]{20,}|\bAKIA[A-Z0-9]{16}\b"
    r"|\bsk-[A-Za-z0-9_-]{20,}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
HOME_PATHS = re.compile(r"(?:/home|/Users|/root|[A-Za-z]:\\+Users)[/\\]+[\w.-]+")
COMMON_NAMES = frozenset(
    ("root", "user", "admin", "ubuntu", "debian", "docker", "jovyan", "runner", "localhost")
)
"""Names of users and hosts that say nothing, as thousands of machines have them."""
SHORTEST_NAME = 4
"""Shorter names are parts of other words too often to be looked for."""


def reduce_private(text: str) -> str:
    """``text`` with ``.../NAME`` in the place of each path, and of each address that is not public."""

    def shorten(match: re.Match[str]) -> str:
        whole, scheme = match[0], match["scheme"]
        if scheme:
            # Hosts, buckets and passwords come before the first slash, keys after a question mark.
            _, *names = match["rest"].partition("?")[0].rstrip("/").split("/")
            reduced = f"{scheme}.../{names[-1]}" if names else f"{scheme}..."
            return whole if whole.startswith(PUBLIC_HOSTS) else reduced
        return f".../{match['name']}"

    return LOCATION.sub(shorten, text)


def reduce_values(value: Any) -> Any:
    """A JSON value with every text in it reduced. A text that is a path is one, blanks included."""
    if isinstance(value, dict):
        return {key: reduce_values(item) for key, item in value.items()}
    if isinstance(value, list):
        return [reduce_values(item) for item in value]
    if isinstance(value, str) and value.startswith(("/", "~", "../")) and "," not in value:
        return f".../{pathlib.PurePath(value).name}"
    return reduce_private(value) if isinstance(value, str) else value


def machine_names() -> tuple[str, ...]:
    """Names of this host and of its user that would tell them from others."""
    names = {pathlib.Path.home().name, socket.gethostname(), socket.gethostname().split(".")[0]}
    # A container may have a user without a name.
    with contextlib.suppress(KeyError, OSError, ImportError):
        names.add(getpass.getuser())
    return tuple(
        sorted(name for name in names if len(name) >= SHORTEST_NAME and name not in COMMON_NAMES)
    )


def _is_absolute(match: re.Match[str]) -> bool:
    """Whether a location is a path from the root or from a home folder, of two names or more."""
    path = match[0].rstrip("/")
    return match["scheme"] is None and path.startswith(("/", "~")) and path.count("/") >= 2


def find_private(text: str, secrets: Iterable[str] = (), names: Iterable[str] = ()) -> str | None:
    """What a text says that nobody else should read, in words that do not repeat it; None for nothing.

    Args:
      text: to look at.
      secrets: texts that must not be in it, such as the token of a login.
      names: words that must not be in it, such as those of ``machine_names``.
    """
    if TOKENS.search(text) or any(secret in text for secret in secrets if secret):
        return "a token or key"
    if HOME_PATHS.search(text) or any(map(_is_absolute, LOCATION.finditer(text))):
        return "a path of this machine"
    for name in names:
        if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text):
            return "the name of this host or of its user"
    return None
