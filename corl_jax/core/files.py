"""Files that are there whole or not at all, whenever the process that writes them is killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes ``content``, text as UTF-8, beside ``path`` and then moves it there in one go."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    part.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` in one go, indented; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(value, indent=2) + "\n")
