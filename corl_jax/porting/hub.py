"""Downloads models of the Hugging Face hub by id, ``OWNER/NAME``, through the user's cache."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence

import huggingface_hub
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from corl_jax.core.errors import UserError
from corl_jax.porting.adapters.settings import SETTINGS_FILE
from corl_jax.porting.tensors import WEIGHT_PATTERNS

SMALL_FILES = ("*.json", "*.jinja", "*.model", "*.txt")
"""Patterns of the configuration and tokenizer files, which are always downloaded."""


def is_id(name: str) -> bool:
    """Whether ``name`` has the form of a hub id. It may also be a folder that does not exist."""
    # Exactly one slash, and no leading dot: ``./a/b`` and ``a/b/c`` are paths.
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name) is not None


def download(
    name: str,
    weight_patterns: Sequence[str] = WEIGHT_PATTERNS,
    config_files: Sequence[str] = ("config.json", SETTINGS_FILE),
) -> pathlib.Path:
    """The folder of a model in the local cache. Downloads it first if the cache does not have it.

    Args:
      name: id on the hub.
      weight_patterns: patterns of weight files; only files of the first pattern that matches are
        downloaded.
      config_files: names of the file with the sizes or the settings of adapters, of which a
        folder has one; () where a model
        has none, which is then cached as soon as its weights are.

    Raises:
      UserError: the model is not cached, and there is no network or no such model.
    """
    cached = _find_cached(name, weight_patterns, config_files)
    if cached is not None:
        return cached

    try:
        siblings = huggingface_hub.model_info(name).siblings or []
        files = [pathlib.PurePath(sibling.rfilename) for sibling in siblings]

        # Many models are on the hub in several formats: one of them is enough.
        chosen = weight_patterns[0]
        for pattern in weight_patterns:
            if any(file.match(pattern) for file in files):
                chosen = pattern
                break

        patterns = [*SMALL_FILES, chosen]
        return pathlib.Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns))
    except RepositoryNotFoundError:
        raise UserError(
            f"there is no folder {name!r} and no such model on the Hugging Face hub (or it needs a "
            "login); check the name"
        ) from None
    except Exception as error:  # the hub's network client does not export its error classes
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"there is no folder {name!r}, and the Hugging Face hub cannot be reached ({reason}); "
            f"run 'hf download {name} --local-dir {name}' where there is a network, and copy the "
            f"folder to {name!r} here"
        ) from None


def _find_cached(
    name: str, weight_patterns: Sequence[str], config_files: Sequence[str]
) -> pathlib.Path | None:
    """The folder of the model in the cache, if config and weights are there."""
    try:
        folder = pathlib.Path(huggingface_hub.snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, OSError):
        return None

    # Only config or tokenizer may have been downloaded before.
    has_weights = any(any(folder.glob(pattern)) for pattern in weight_patterns)
    has_config = not config_files or any((folder / file).is_file() for file in config_files)
    return folder if has_weights and has_config else None
