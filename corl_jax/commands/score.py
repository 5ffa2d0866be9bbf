"""Computes rewards of the pictures and answers in a file, outside training."""

from __future__ import annotations

import argparse
import pathlib
import sys
from typing import Any

from corl_jax.commands.common import check_file
from corl_jax.core.errors import UserError
from corl_jax.core.files import write_json

SIZE = 384


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument(
        "--records", type=pathlib.Path, required=True, help="JSON Lines, see docs/rewards.md"
    )
    parser.add_argument(
        "--rewards", required=True, help="names, separated by commas; your own as module:function"
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, help="JSON file for the numbers")
    parser.add_argument("--policy", help="for rewards that read with a policy, and for --answer")
    parser.add_argument(
        "--answer",
        action="store_true",
        help="let the policy answer the questions of rows without a completion",
    )
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
        help="as config.reward.NAME, e.g. captioner=blip",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace that file")


def run(args: argparse.Namespace) -> int:
    """Scores, writes, and prints a table."""
    check_file(args.out, "--out", args.overwrite)

    from corl_jax.core import provenance
    from corl_jax.data.record_files import read_records
    from corl_jax.evals.offline_rewards import score_rows
    from corl_jax.rewards.base import rewards
    from corl_jax.rewards.config import RewardSettings
    from corl_jax.rewards.custom import register_custom
    from corl_jax.rewards.cycle import check_names
    from corl_jax.sampling.policy import Policy

    names = [name for name in args.rewards.split(",") if name]
    sys.path.insert(0, "")  # your own lie where the command is called, as under python -m
    register_custom([name for name in names if ":" in name])
    names = [name.rpartition(":")[2] for name in names]
    for name in names:
        rewards[name]
    chosen: dict[str, Any] = {**pairs(args.set, "--set"), "models": pairs(args.model, "--model")}
    settings = RewardSettings(**chosen)
    check_names(settings)
    rows = read_records(args.records)
    if args.answer and args.policy is None:
        raise UserError("--answer needs a policy; pass --policy")
    policy = None if args.policy is None else Policy.load(args.policy)
    size = SIZE if policy is None else policy.cfg.vision.image_size
    found = score_rows(rows, names, settings, policy, size, args.answer)
    about = {"policy": args.policy, "records": args.records.name, "machine": provenance.machine()}
    write_json(args.out, {**found, "about": about | {"versions": provenance.versions()}})
    for name, number in found["rewards"].items():
        print(f"{name:24} {number['mean']:.3f} +- {number['std']:.3f}  n={len(rows)}")
    return 0


def pairs(texts: list[str], flag: str) -> dict[str, str]:
    """``NAME=VALUE`` texts as a dictionary.

    Raises:
      UserError: a text without ``=``, or a name that settings do not have.
    """
    known = {"normalise", "captioner", "similarity", "closeness", "open_ended"}
    out = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"{flag} {text!r} has no value; expected NAME=VALUE")
        if flag == "--set" and name not in known:
            raise UserError(
                f"--set {text!r}: unknown name; expected one of {', '.join(sorted(known))}"
            )
        out[name] = value
    return out
