"""What a folder of results was made with, so that no other run goes on in it."""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.checks.paths import check_writable, make_folder
from corl_jax.core.errors import UserError
from corl_jax.core.files import write_json
from corl_jax.core.processes.agreement import on_first_process
from corl_jax.suites.questions.question import Question

SETTINGS = "settings.json"
"""Written before anything is asked."""


def claim_folder(folder: pathlib.Path, settings: Mapping[str, Any]) -> None:
    """Makes a folder of results, or goes on in one of the same settings.

    Args:
      folder: new, empty, or of an earlier start of the same command.
      settings: plain values by name.

    Raises:
      UserError: it holds results of other settings, or other files; nothing is changed.
    """

    def claim() -> None:
        check_writable(folder, "--out")
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--out must be a folder; got the file {str(folder)!r}")
        path = folder / SETTINGS
        if path.exists():
            _check_same(dict(JsonObject.read(path).entries), settings, folder)
        elif folder.exists() and any(folder.iterdir()):
            raise UserError(
                f"--out must be a new folder, or one of the same command; {str(folder)!r} has other "
                "files. Choose another one"
            )
        else:
            make_folder(folder, "--out")
            write_json(path, settings)

    on_first_process(claim)


def _check_same(
    found: Mapping[str, object], settings: Mapping[str, Any], folder: pathlib.Path
) -> None:
    for name in (*settings, *found):
        if found.get(name) != settings.get(name):
            raise UserError(
                f"--out {str(folder)!r} has results of another {name.replace('_', ' ')}: "
                f"{found.get(name)!r}; this command has {settings.get(name)!r}. Choose another "
                "folder, or the same settings"
            )


def questions_digest(questions: Sequence[Question]) -> str:
    """Hash of all that is asked; pictures count by the hash of their bytes or their path."""
    digest = hashlib.sha256()
    for question in questions:
        parts = (question.id, question.text, dict(question.choices), question.hint, question.answer)
        digest.update(repr((parts, question.cluster)).encode())
    return digest.hexdigest()[:16]
