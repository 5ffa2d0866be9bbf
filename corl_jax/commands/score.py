"""Computes rewards of the pictures and answers in a file, outside training."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from corl_jax.commands.common import add_completion_length, check_file, path_flag
from corl_jax.core.checks.config_block import FieldError
from corl_jax.core.errors import UserError
from corl_jax.core.files import write_json

if TYPE_CHECKING:
    from corl_jax.rewards.config import RewardOptions

# Fields of ``RewardOptions`` that ``--set`` accepts.
OPTIONS = (
    "captioner",
    "image_distance",
    "likelihood_baseline",
    "normalization",
    "open_ended",
    "similarity",
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    # What is scored, and where the numbers go.
    parser.add_argument(
        "--records",
        type=path_flag,
        required=True,
        help="a .jsonl, .json or .csv file, see docs/rewards.md",
    )
    parser.add_argument(
        "--rewards", required=True, help="names, separated by commas; your own as module:function"
    )
    parser.add_argument("--out", type=path_flag, required=True, help="JSON file for the numbers")

    # What rewards need.
    parser.add_argument("--policy", help="for rewards that use a policy, and for --answer")
    parser.add_argument(
        "--answer",
        action="store_true",
        help="let the policy answer the questions of rows without a completion",
    )
    add_completion_length(parser)
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME=SOURCE",
        help="a reward model: a folder, hub id, or tiny",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="as config.rewards.options.NAME, e.g. captioner=blip",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace that file")


def run(args: argparse.Namespace) -> int:
    """Computes the rewards, writes the file and prints a table."""
    check_file(args.out, "--out", args.overwrite)

    # Imported after the check, so that help and errors are quick.
    from corl_jax.core import provenance
    from corl_jax.data.scored_rows import read_scored_rows
    from corl_jax.evals.offline_rewards import score_rows
    from corl_jax.sampling.policy import Policy

    # Everything that can be wrong in the flags is found before a policy is loaded.
    names = register_rewards(args.rewards)
    options = reward_options(args.set, args.model)
    rows = read_scored_rows(args.records)
    if args.answer and args.policy is None:
        raise UserError("--answer needs a policy; pass --policy")
    policy = None if args.policy is None else Policy.load(args.policy)

    answer_length = args.completion_length if args.answer else 0
    scores = score_rows(rows, names, options, policy, answer_length)
    if truncated := sum(row["truncated"] for row in scores["rows"]):
        length = args.completion_length
        note = f"{truncated} answers were cut at {length} tokens; raise --completion-length"
        print(note, file=sys.stderr)
    # The file also says where its numbers are from.
    about = {
        "policy": args.policy,
        "records": args.records.name,
        "machine": provenance.machine(),
        "versions": provenance.versions(),
    }
    write_json(args.out, {**scores, "about": about})
    for name, reward in scores["rewards"].items():
        print(f"{name:24} {reward['mean']:.3f} +- {reward['std']:.3f}  n={len(rows)}")
    return 0


def register_rewards(text: str) -> list[str]:
    """Names of the rewards in ``text``; those of the user (``module:function``) are registered.

    Raises:
      UserError: an unknown reward, or a function that cannot be imported.
    """
    from corl_jax.rewards.base import rewards
    from corl_jax.rewards.custom import register_custom

    # Modules of the user are in the current folder, which ``python -m`` would add by itself.
    sys.path.insert(0, "")
    entries = [entry for entry in text.split(",") if entry]
    register_custom([entry for entry in entries if ":" in entry])

    names = [entry.rpartition(":")[2] for entry in entries]
    for name in names:
        rewards.require(name)
    return names


def reward_options(settings: Sequence[str], models: Sequence[str]) -> RewardOptions:
    """The options of ``--set`` and the reward models of ``--model``.

    Raises:
      UserError: an unknown name or value.
    """
    from corl_jax.rewards.config import RewardOptions
    from corl_jax.rewards.cycle import check_reward_options

    # All accepted options are texts, as they come from the command line.
    values: dict[str, Any] = dict(_parse_pair(text, "--set") for text in settings)
    for name, value in values.items():
        if name not in OPTIONS:
            raise UserError(f"--set must name one of {', '.join(OPTIONS)}; got '{name}={value}'")
    sources = dict(_parse_pair(text, "--model") for text in models)
    try:
        # Without a limit of time: whoever waits for this command can end it.
        options = RewardOptions(**values, models=sources, timeout=0.0)
        check_reward_options(options)
    except FieldError as error:
        raise error.of("--model " if error.name.startswith("models") else "--set ") from None
    return options


def _parse_pair(text: str, flag: str) -> tuple[str, str]:
    """Name and value of ``NAME=VALUE``; raises UserError where there is no ``=``."""
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"{flag} must be NAME=VALUE; got {text!r}")
    return name, value
