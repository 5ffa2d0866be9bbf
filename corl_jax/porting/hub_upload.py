"""Uploads an exported folder to the Hugging Face hub, after everything that can be checked was.

Works with ``huggingface_hub`` 1 and 2. ``upload_folder`` sends only what the hub does not have yet:
an upload that broke off goes on where it was when the same command is given again.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import huggingface_hub
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from corl_jax.core.errors import UserError, describe_error
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
MAIN = "main"


@dataclasses.dataclass(frozen=True)
class Upload:
    """What is uploaded where.

    Attributes:
      repo: ``OWNER/NAME``.
      revision: a branch, which is made if it is missing.
      private: whether a new repository is private; one that is there stays as it is.
      message: of the commit.
      overwrite: whether files of an earlier export may be replaced.
    """

    repo: str
    revision: str
    private: bool
    message: str
    overwrite: bool


@dataclasses.dataclass(frozen=True)
class Destination:
    """A repository that can be written to, as it was found.

    Attributes:
      upload: what was asked for.
      exists, has_branch: what is there already.
      commit: of the branch, which must still be its newest when something is written; None for none.
    """

    upload: Upload
    exists: bool
    has_branch: bool
    commit: str | None


def check_destination(upload: Upload) -> Destination:
    """Checks login, rights, names and what would be replaced; nothing is changed.

    Raises:
      UserError: something of that is wrong, or the hub cannot be reached.
    """
    _check_names(upload)
    user = _login()
    owner, organizations = upload.repo.partition("/")[0], user.get("orgs") or []
    owners = [user["name"], *(organization["name"] for organization in organizations)]
    if owner not in owners:
        raise UserError(
            f"--push must name a repository of yours, {' or '.join(f'{name}/NAME' for name in owners)}"
            f"; got {upload.repo!r}. Choose another name, or log in as {owner}: hf auth login"
        )

    has_branch = True
    api = huggingface_hub.HfApi()
    try:
        info = api.model_info(upload.repo, revision=upload.revision)
    except RevisionNotFoundError:
        return Destination(upload, exists=True, has_branch=False, commit=None)
    except RepositoryNotFoundError:
        return Destination(upload, exists=False, has_branch=False, commit=None)
    except Exception as error:  # the hub's network client does not export its error classes
        raise _unreachable(error) from None

    files = sorted(sibling.rfilename for sibling in info.siblings or [])
    replaced = [file for file in files if _is_exported(file)]
    if replaced and not upload.overwrite:
        raise UserError(
            f"{upload.repo!r} has {replaced[0]} on branch {upload.revision!r}, which would be "
            "replaced; choose another repository or --revision, or pass --overwrite to replace "
            "the files of an earlier export"
        )
    return Destination(upload, exists=True, has_branch=has_branch, commit=info.sha)


def upload_folder(destination: Destination, folder: pathlib.Path) -> str:
    """Uploads a folder that ``check_content`` has passed, in one commit.

    Returns:
      The address of the commit.

    Raises:
      UserError: the hub refuses it, or the connection breaks.
    """
    upload, api = destination.upload, huggingface_hub.HfApi()
    try:
        if not destination.exists:
            # Whoever makes it in the meantime keeps it: then this is an error.
            api.create_repo(upload.repo, private=upload.private or None)
        if not destination.has_branch and upload.revision != MAIN:
            api.create_branch(upload.repo, branch=upload.revision)
        commit = api.upload_folder(
            repo_id=upload.repo,
            folder_path=folder,
            revision=upload.revision,
            commit_message=upload.message,
            # Files of an earlier export that this one does not have, such as more shards.
            delete_patterns=list(EXPORTED) if destination.commit else None,
            parent_commit=destination.commit,
        )
    except Exception as error:  # as above
        raise UserError(
            f"{upload.repo!r} could not be uploaded ({_reason(error)}); give the same command "
            f"again, which sends only what is missing, or: hf upload {upload.repo} FOLDER"
        ) from None
    return str(commit.commit_url)


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
        if path.is_symlink() or not _is_exported(name):
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


def _check_names(upload: Upload) -> None:
    """Raises UserError for a malformed repository or branch."""
    try:
        validate_repo_id(upload.repo)
        is_valid = upload.repo.count("/") == 1
    except HFValidationError:
        is_valid = False
    if not is_valid:
        raise UserError(
            "--push must be OWNER/NAME, of letters, digits, '-', '_' and '.'; got "
            f"{upload.repo!r}. Choose a name such as alice/janus-shapes"
        )
    if not re.fullmatch(r"(?!.*(\.\.|//|@\{|\.lock$))[\w][\w./-]*(?<![./])", upload.revision):
        raise UserError(
            f"--revision must be the name of a branch; got {upload.revision!r}. Choose a name such "
            f"as {MAIN} or step-200"
        )
    if not upload.message.strip():
        raise UserError("--message must not be empty; leave it out for the usual one")


def _login() -> dict[str, Any]:
    """Who is logged in, with the right to write.

    Raises:
      UserError: nobody, an expired token, one that may only read, or no network.
    """
    advice = "log in with a token that may write: hf auth login (or set HF_TOKEN)"
    try:
        user = huggingface_hub.HfApi().whoami()
    except LocalTokenNotFoundError:
        raise UserError(f"--push needs a login at the Hugging Face hub; {advice}") from None
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code == 401:
            raise UserError(f"the Hugging Face hub does not accept the login; {advice}") from None
        raise _unreachable(error) from None
    except Exception as error:  # as above
        raise _unreachable(error) from None

    token = (user.get("auth") or {}).get("accessToken") or {}
    if token.get("role") == "read":
        raise UserError(f"the token of the login may only read; {advice}")
    return user


def _unreachable(error: Exception) -> UserError:
    if isinstance(error, OfflineModeIsEnabled):
        return UserError("--push needs the network, and HF_HUB_OFFLINE is set; unset it")
    return UserError(
        f"the Hugging Face hub cannot be reached ({_reason(error)}); try again, or export "
        "with --out and upload later: hf upload OWNER/NAME FOLDER"
    )


def _reason(error: Exception) -> str:
    """What the hub said, or else what its client did."""
    said = error.server_message if isinstance(error, HfHubHTTPError) else None
    return " ".join(said.split()) if said else describe_error(error)


def _is_exported(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in EXPORTED)


def _files(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())
