"""Models of the Hugging Face hub by their id, through the user's cache. In: ``OWNER/NAME``; out: a folder."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence

import huggingface_hub
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from corl_jax.core.errors import UserError
from corl_jax.porting.tensors import WEIGHTS

SMALL = ("*.json", "*.jinja", "*.model", "*.txt")


def is_id(name: str) -> bool:
    """Whether ``name`` is written like a hub id; it may be a folder that does not exist as well."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name) is not None


def download(name: str, kinds: Sequence[str] = WEIGHTS) -> pathlib.Path:
    """The folder of ``name`` in the local cache; downloaded with a progress bar where it is not there yet.

    Args:
      name: on the hub.
      kinds: patterns of weight files; those of the first kind that it has are fetched.

    Raises:
      UserError: it is not cached and cannot be had: no network, or no such model.
    """
    if (cached := _cached(name, kinds)) is not None:
        return cached
    try:
        files = [file.rfilename for file in huggingface_hub.model_info(name).siblings or []]
        kind = next(
            (kind for kind in kinds if any(pathlib.PurePath(file).match(kind) for file in files)),
            kinds[0],
        )
        return pathlib.Path(huggingface_hub.snapshot_download(name, allow_patterns=[*SMALL, kind]))
    except RepositoryNotFoundError:
        raise UserError(
            f"there is no folder {name!r} and no such model on the Hugging Face hub (or it needs a login); "
            "check the name"
        ) from None
    except (
        Exception
    ) as error:  # the hub's network client has errors of its own, which it does not re-export
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"there is no folder {name!r}, and the Hugging Face hub cannot be reached ({reason}); where there is a "
            f"network, run 'hf download {name} --local-dir {name}', and put the folder at {name!r} here"
        ) from None


def _cached(name: str, kinds: Sequence[str]) -> pathlib.Path | None:
    """The whole model in the cache, or None."""
    try:
        folder = pathlib.Path(huggingface_hub.snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, OSError):
        return None
    has_weights = any(any(folder.glob(kind)) for kind in kinds)
    return folder if has_weights and (folder / "config.json").is_file() else None
