"""Flags and checks that several commands share."""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import typing
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from corl_jax.core.checks.config_block import FieldError, Interval, PositiveInt, check_value
from corl_jax.core.checks.paths import check_writable, user_path
from corl_jax.core.errors import UserError

if TYPE_CHECKING:
    from corl_jax.data.plans import Plans

Devices = Annotated[int, Interval(ge=1, le=1024)]
# Repeated from ``sampling.policy``, which help must not wait for.
Samples = Annotated[int, Interval(ge=1, le=1024), "Another --seed gives other samples"]
ANSWER_LENGTH = 64
PLAN_LENGTH = 64


def number(annotation: Any) -> Callable[[str], Any]:
    """The ``type`` of a flag whose value is a number in bounds, see ``core.checks.config_block``."""
    kind = typing.get_args(annotation)[0] if typing.get_args(annotation) else annotation

    def parse(text: str) -> Any:
        value: Any = text
        # A text that is no number stays one, and the check says what it must be.
        with contextlib.suppress(ValueError):
            value = kind(text)
        try:
            check_value("", value, annotation)
        except FieldError as error:
            raise argparse.ArgumentTypeError(error.problem) from None
        return value

    return parse


def add_policy(parser: argparse.ArgumentParser) -> None:
    """Adds ``--policy``."""
    parser.add_argument(
        "--policy",
        required=True,
        help="tiny (the shipped base), a Hugging Face folder or id, a work directory, or PEFT adapters",
    )


def add_devices(parser: argparse.ArgumentParser) -> None:
    """Adds ``--devices``."""
    text = "how many devices of this host share a policy that is too large for one (default: 1)"
    parser.add_argument("--devices", type=number(Devices), default=1, help=text)


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Adds the flags by which processes on several hosts find each other, those of training."""
    parser.add_argument(
        "--distributed", action="store_true", help="join the hosts of a TPU slice or Slurm job"
    )
    parser.add_argument(
        "--coordinator", default="", help="HOST:PORT of process 0, where JAX cannot find it"
    )
    parser.add_argument("--processes", type=int, default=0, help="with --coordinator: how many")
    parser.add_argument("--process", type=int, default=-1, help="with --coordinator: which this is")


def connect(args: argparse.Namespace) -> None:
    """Connects the processes that the flags of ``add_processes`` name, if they name any.

    Raises:
      UserError: flags that contradict each other, or processes that cannot be reached.
    """
    from corl_jax.core.processes.connection import DistributedConfig, connect_processes

    hosts = DistributedConfig(args.coordinator, args.processes, args.process)
    if args.distributed or hosts != DistributedConfig():
        connect_processes(hosts)


def add_completion_length(parser: argparse.ArgumentParser) -> None:
    """Adds ``--completion-length``."""
    parser.add_argument(
        "--completion-length",
        type=number(PositiveInt),
        default=ANSWER_LENGTH,
        help=f"most tokens of an answer (default: {ANSWER_LENGTH})",
    )


def add_plan(parser: argparse.ArgumentParser) -> None:
    """Adds ``--plan`` and ``--plan-template``."""
    parser.add_argument(
        "--plan",
        type=number(PositiveInt),
        nargs="?",
        const=PLAN_LENGTH,
        metavar="TOKENS",
        help="the policy writes a plan of at most so many tokens for each picture and draws behind "
        f"it (without a number: {PLAN_LENGTH})",
    )
    parser.add_argument(
        "--plan-template",
        help="how it is asked for plans: objects, instruct, or a text with {prompt} (default: by its "
        "tokenizer)",
    )


def read_plans(args: argparse.Namespace) -> Plans | None:
    """What the flags of ``add_plan`` ask for; None without ``--plan``.

    Raises:
      UserError: a template that there is not, or one without ``--plan``.
    """
    if args.plan is None:
        if args.plan_template is not None:
            raise UserError("--plan-template is for --plan, which is missing. Add it")
        return None

    from corl_jax.data.plans import Plans
    from corl_jax.data.prompt_requests import AUTO, PLAN_TEMPLATES, RequestTemplateName

    names, template = RequestTemplateName(PLAN_TEMPLATES), args.plan_template or AUTO
    if template not in names:
        raise UserError(f"--plan-template must be {names}; got {template!r}")
    return Plans(args.plan, template)


def path_flag(text: str) -> pathlib.Path:
    """The type of flags that are paths: ``user_path``, with the name of the flag in errors."""
    try:
        return user_path(text, "it")
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def check_file(path: pathlib.Path, flag: str, overwrite: bool) -> None:
    """Refuses a file that cannot be written or would be replaced.

    Raises:
      UserError: before any work is done.
    """
    # A file, and a new one unless it may be replaced.
    if path.is_dir():
        raise UserError(f"{flag} must be a file; got the folder {str(path)!r}")
    if path.exists() and not overwrite:
        raise UserError(
            f"{flag} {str(path)!r} exists; choose another file, or pass --overwrite to replace it"
        )
    check_writable(path, flag)


def check_folder(folder: pathlib.Path, paths: Sequence[pathlib.Path], overwrite: bool) -> None:
    """Refuses an ``--out`` that cannot be a folder, and ``paths`` in it that would be replaced.

    Raises:
      UserError: before any work is done.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {str(folder)!r} is a file; expected a folder")
    check_writable(folder, "--out")
    # Only files of these names would be replaced; others may be there.
    existing = [path for path in paths if path.exists()]
    if existing and not overwrite:
        raise UserError(
            f"{str(existing[0])!r} exists; choose another --out, or pass --overwrite to replace it"
        )
