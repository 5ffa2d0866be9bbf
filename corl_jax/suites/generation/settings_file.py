"""What a folder was made with, so that a run that goes on makes more of the same and nothing else."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.checks.json_reader import show_value
from corl_jax.core.errors import UserError
from corl_jax.core.files import write_json


def keep_settings(
    path: pathlib.Path, settings: Mapping[str, Any], output: pathlib.Path, label: str
) -> None:
    """Writes ``settings`` to ``path``, or checks that they are those that are there.

    Args:
      path: of the JSON file.
      settings: JSON values by name.
      output: what is made with them; it may not be there without ``path``.
      label: what the output is, for error texts.

    Raises:
      UserError: the output was made with other settings, or nobody knows with which.
    """
    # What JSON makes of a value, so that a tuple equals the list that is read.
    wanted = json.loads(json.dumps(settings))
    if not path.is_file():
        if output.exists():
            raise UserError(
                f"{str(output)!r} must not be there without {path.name}, which says how {label} "
                "were made. Name another folder"
            )
        write_json(path, wanted)
        return

    kept = JsonObject.read(path).entries
    for name in sorted(wanted.keys() | kept.keys()):
        if wanted.get(name) != kept.get(name) or (name in wanted) != (name in kept):
            raise UserError(
                f"{label} in {str(path.parent)!r} must be made with one setting of {name!r}; got "
                f"{_show(wanted, name)}, and {_show(kept, name)} before. Name another folder, or "
                "use that setting"
            )


def _show(settings: Mapping[str, Any], name: str) -> str:
    if name not in settings:
        return "none"
    value = settings[name]
    return json.dumps(value)[:200] if isinstance(value, dict) else show_value(value)
