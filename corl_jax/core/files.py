"""Atomic writes: a file is complete or absent, whenever the process that writes it is killed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes ``content``, text as UTF-8, to ``path`` by way of a temporary file next to it."""
    temporary = path.with_name(path.name + ".part")
    # A leftover of that name may be a link, through which another file would be overwritten.
    temporary.unlink(missing_ok=True)
    temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    # A rename within one folder is atomic, so no reader ever sees half a file.
    temporary.replace(path)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes ``value`` atomically as indented JSON; creates the folder when it is missing.

    NaN and infinity become null, since JSON has neither.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    """``value`` with null in the place of numbers that are not finite."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
