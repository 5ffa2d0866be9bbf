"""What of an exported folder may be uploaded: files of an export, with nothing private in them."""

from __future__ import annotations

import fnmatch
import pathlib
import re
from collections.abc import Iterator

import huggingface_hub

from corl_jax.core.errors import UserError
from corl_jax.core.private_text import find_private, machine_names
from corl_jax.porting.adapters.settings import SETTINGS_FILE, WEIGHTS_FILE
from corl_jax.porting.janus.sidecar_files import SIDECAR_FILES

CARD_FILE = "README.md"
EXPORTED = (
    CARD_FILE,
    "card/*.png",
    *SIDECAR_FILES,
    "model*.safetensors",
    "model.safetensors.index.json",
    SETTINGS_FILE,
    WEIGHTS_FILE,
)
"""Patterns of the files of an export; nothing else is uploaded, and nothing else is replaced."""
TEXT_SUFFIXES = (".json", ".jinja", ".md")
VOCABULARIES = ("tokenizer.json", "added_tokens.json", "special_tokens_map.json")
"""Files whose texts are pieces of words, among which any name may be."""


def check_content(folder: pathlib.Path, repo: str) -> None:
    """Refuses a folder with other files than those of an export, or with anything private in them.

    Args:
      folder: that would be uploaded.
      repo: names of its owner may be in the files, also where the owner is called like the user here.

    Raises:
      UserError: a file that must not be uploaded.
    """
    secrets, names = (huggingface_hub.get_token() or "",), machine_names()
    owner = repo.partition("/")[0]
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not is_exported(name):
            raise UserError(
                f"only the files of an export are uploaded; got {name!r} in {str(folder)!r}. "
                "Move it to another folder"
            )
        if path.suffix not in TEXT_SUFFIXES or name in VOCABULARIES:
            continue
        text = re.sub(rf"\b{re.escape(owner)}/[\w.-]+", "", path.read_text("utf-8"))
        if found := find_private(text, secrets, names):
            raise UserError(
                f"{name} must have nothing private in it to be uploaded; got {found}. Take it out of "
                "the files of the policy, or leave the card out: --no-card"
            )


def is_exported(name: str) -> bool:
    """Whether a path in a repository is one that an export writes."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in EXPORTED)


def _files(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())
