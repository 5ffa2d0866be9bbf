"""Flags of ``corl export`` that say what the card says and where the folder is uploaded."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from corl_jax.commands.common import path_flag
from corl_jax.core.errors import UserError

if TYPE_CHECKING:
    from corl_jax.porting.hub_upload import Upload

MESSAGE = "Upload a policy of corl_jax"
LICENSE = r"[a-z0-9][a-z0-9.-]*"
UPLOAD_FLAGS: Mapping[str, object] = {
    "private": False,
    "revision": None,
    "message": None,
    "overwrite": False,
}
"""Flags that mean nothing without ``--push``, with their values where they are not given."""
CARD_FLAGS: Mapping[str, object] = {"license": "", "results": []}


def add_card_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the card."""
    group = parser.add_argument_group("the card, README.md")
    group.add_argument("--no-card", action="store_true", help="write none")
    group.add_argument(
        "--license", default="", help="id of its licence, such as mit (default: to be filled in)"
    )
    group.add_argument(
        "--results",
        nargs="+",
        default=[],
        type=path_flag,
        help="folders that corl evaluate --suite wrote about this policy",
    )


def add_upload_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of an upload."""
    group = parser.add_argument_group("upload to the Hugging Face hub, after hf auth login")
    group.add_argument("--push", metavar="REPO", help="OWNER/NAME; it is made if it is missing")
    group.add_argument("--private", action="store_true", help="if the repository is made")
    group.add_argument("--revision", help="branch, which is made if it is missing (default: main)")
    group.add_argument("--message", help="of the commit")
    group.add_argument(
        "--overwrite", action="store_true", help="replace the files of an earlier export"
    )


def check_flags(args: argparse.Namespace) -> None:
    """Refuses flags that would change nothing, and those that contradict each other.

    Raises:
      UserError: see above.
    """
    if args.out is None and args.push is None:
        raise UserError("corl export needs --out FOLDER or --push OWNER/NAME; got neither")
    groups = (
        (args.push is None, UPLOAD_FLAGS, "goes with --push, which is missing; add it"),
        (args.no_card, CARD_FLAGS, "is about the card; leave --no-card out"),
    )
    for is_useless, flags, problem in groups:
        for name, default in flags.items():
            if is_useless and vars(args)[name] != default:
                raise UserError(f"--{name} {problem}, or leave --{name} out")
    if args.license and not re.fullmatch(LICENSE, args.license):
        raise UserError(
            f"--license must be an id of the Hugging Face hub, such as mit; got {args.license!r}; "
            "see https://huggingface.co/docs/hub/repositories-licenses"
        )
    if args.adapters and args.layout != "transformers":
        raise UserError(
            f"--adapters are written for transformers and PEFT; got --layout {args.layout}; leave "
            "--layout out"
        )


def upload_of(args: argparse.Namespace) -> Upload:
    """What the flags say about an upload; ``--push`` is given."""
    from corl_jax.porting.hub_upload import MAIN, Upload

    return Upload(
        repo=args.push,
        revision=MAIN if args.revision is None else args.revision,
        private=args.private,
        message=MESSAGE if args.message is None else args.message,
        overwrite=args.overwrite,
    )
