"""Merges policies that began as one into a single policy, and writes it as a model folder."""

from __future__ import annotations

import argparse
import pathlib

METHODS = ("gaussian", "linear")
DTYPES = ("stored", "float32", "bfloat16")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    kinds = "tiny (the shipped base), a Hugging Face folder or a work directory"
    parser.add_argument("--base", required=True, help=f"what the experts began as: {kinds}")
    parser.add_argument(
        "--experts", required=True, nargs="+", help="policies that were trained from it"
    )
    parser.add_argument(
        "--method",
        choices=METHODS,
        default="gaussian",
        help="large changes kept and small ones averaged, or all averaged",
    )
    parser.add_argument(
        "--lambda",
        dest="lam",
        type=float,
        default=2.0,
        help="gaussian: standard deviations up to which a change is small (default: 2)",
    )
    parser.add_argument(
        "--weights",
        type=float,
        nargs="+",
        default=[],
        help="linear: one per expert (default: equal, adding up to 1)",
    )
    parser.add_argument(
        "--out", required=True, type=pathlib.Path, help="new folder; written whole or not at all"
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="stored",
        help="of the weights written (default: the base's)",
    )


def run(args: argparse.Namespace) -> int:
    """Merges, writes, says where."""
    from corl_jax.core.runtime import set_up_jax
    from corl_jax.porting.policy_merge import MergeSettings, merge_policies

    settings = MergeSettings(args.method, args.lam, tuple(args.weights), args.dtype)
    set_up_jax()
    merge_policies(args.base, args.experts, args.out, settings)
    print(args.out)
    return 0
