"""What a folder was made with, so that a run that goes on makes more of the same and nothing else."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.checks.json_reader import show_value
from corl_jax.core.checks.paths import check_writable, make_folder
from corl_jax.core.errors import UserError
from corl_jax.core.files import write_json
from corl_jax.core.processes.agreement import on_first_process
from corl_jax.suites.questions.fields import picture_name
from corl_jax.suites.questions.question import Question

SETTINGS = "settings.json"
"""Written before anything is asked."""


def claim_folder(folder: pathlib.Path, settings: Mapping[str, Any]) -> None:
    """Makes a folder of results, or goes on in one of the same settings.

    Args:
      folder: new, empty, or of an earlier start of the same command.
      settings: JSON values by name.

    Raises:
      UserError: it holds results of other settings, or other files; nothing is changed.
    """

    def claim() -> None:
        make_results_folder(folder)
        has_files = any(path.name != SETTINGS for path in folder.iterdir())
        keep_settings(folder / SETTINGS, settings, "results", has_output=has_files)

    on_first_process(claim)


def make_results_folder(folder: pathlib.Path) -> None:
    """Makes the folder of ``--out`` where it is not there.

    Raises:
      UserError: it is a file, or cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out must be a folder; got the file {str(folder)!r}. Name another one")
    check_writable(folder, "--out")
    make_folder(folder, "--out")


def keep_settings(
    path: pathlib.Path, settings: Mapping[str, Any], label: str, *, has_output: bool
) -> None:
    """Writes ``settings`` to ``path``, or checks that they are those that are there.

    Args:
      path: of the JSON file.
      settings: JSON values by name.
      label: what is made with them, for error texts.
      has_output: whether some of that is there; it may not be without ``path``.

    Raises:
      UserError: it was made with other settings, or nobody knows with which.
    """
    # What JSON makes of a value, so that a tuple equals the list that is read.
    wanted = json.loads(json.dumps(settings))
    if not path.is_file():
        if has_output:
            raise UserError(
                f"{str(path.parent)!r} must be a new folder, or have {path.name}, which says how its "
                f"{label} were made; it has other files alone. Name another folder"
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


def questions_digest(questions: Sequence[Question]) -> str:
    """Hash of all that is asked; pictures count by the hash of their bytes."""
    digest = hashlib.sha256()
    for question in questions:
        parts = (question.id, question.text, dict(question.choices), question.hint, question.answer)
        pictures = [picture_name(picture) for picture in question.pictures]
        digest.update(repr((parts, pictures)).encode())
    return digest.hexdigest()[:16]
