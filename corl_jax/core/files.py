"""Atomic writes: a file is complete or absent, whenever the process that writes it is killed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes ``content``, text as UTF-8, to ``path`` by way of a temporary file next to it."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    # A rename within one folder is atomic, so no reader ever sees half a file.
    temporary.replace(path)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes ``value`` atomically as indented JSON; creates the folder when it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(value, indent=2) + "\n")
