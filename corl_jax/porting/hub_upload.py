"""Uploads an exported folder to the Hugging Face hub, after everything that can be checked was.

Works with ``huggingface_hub`` 1 and 2. ``upload_folder`` sends only what the hub does not have yet:
an upload that broke off goes on where it was when the same command is given again.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
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
from corl_jax.porting.hub_content import EXPORTED, is_exported

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
    replaced = [file for file in files if is_exported(file)]
    if replaced and not upload.overwrite:
        raise UserError(
            f"{upload.repo!r} has {replaced[0]} on branch {upload.revision!r}, which would be "
            "replaced; choose another repository or --revision, or pass --overwrite to replace "
            "the files of an earlier export"
        )
    return Destination(upload, exists=True, has_branch=has_branch, commit=info.sha)


def upload_folder(destination: Destination, folder: pathlib.Path) -> str:
    """Uploads a folder that ``hub_content.check_content`` has passed, in one commit.

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
