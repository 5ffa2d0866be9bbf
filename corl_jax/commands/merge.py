"""Merges policies that were trained from one base into a single policy, as a model folder."""

from __future__ import annotations

import argparse
from typing import Annotated

from corl_jax.commands.common import number, path_flag
from corl_jax.core.checks.config_block import FieldError, Interval

# Repeated from ``objectives`` and ``porting``, which help must not wait for.
METHODS = ("gaussian", "linear")
DTYPES = ("stored", "float32", "bfloat16")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    # What is merged.
    kinds = "tiny (the shipped base), a Hugging Face folder or a work directory"
    parser.add_argument(
        "--base", required=True, help=f"policy from which the experts were trained: {kinds}"
    )
    parser.add_argument(
        "--experts", required=True, nargs="+", help="policies that were trained from it"
    )

    # How.
    parser.add_argument(
        "--method",
        choices=METHODS,
        default="gaussian",
        help="gaussian keeps large changes and averages small ones, linear averages all",
    )
    parser.add_argument(
        "--lambda",
        dest="lam",
        type=number(Annotated[float, Interval(gt=0), "Try 2"]),
        default=2.0,
        help="gaussian: standard deviations up to which a change is small (default: 2)",
    )
    parser.add_argument(
        "--weights",
        type=number(float),
        nargs="+",
        default=[],
        help="linear: one per expert (default: equal, adding up to 1)",
    )

    # What is written.
    parser.add_argument(
        "--out",
        required=True,
        type=path_flag,
        help="new folder; it is complete when it appears",
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="stored",
        help="of the weights written (default: the base's)",
    )


def run(args: argparse.Namespace) -> int:
    """Merges the policies, writes the folder and prints its path."""
    # Imported here, so that help is quick.
    from corl_jax.core.runtime import set_up_jax
    from corl_jax.porting.policy_merge import MergeSettings, merge_policies

    # Options are checked before any policy is opened.
    try:
        settings = MergeSettings(args.method, args.lam, tuple(args.weights), args.dtype)
    except FieldError as error:
        raise error.of("--") from None
    set_up_jax()
    merge_policies(args.base, args.experts, args.out, settings)
    print(args.out)
    return 0
