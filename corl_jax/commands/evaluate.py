"""Measures a policy on a suite: the embedded world, or a benchmark in its owner's files."""

from __future__ import annotations

import argparse

from corl_jax.commands.common import (
    Samples,
    add_devices,
    add_plan,
    add_policy,
    add_processes,
    connect,
    number,
    path_flag,
)
from corl_jax.commands.suite_runs import WORLD, run_suite
from corl_jax.core.checks.config_block import PositiveInt, Seed, Weight

# Records per compiled call.
BATCH_SIZE = 64


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    add_policy(parser)
    add_devices(parser)
    add_processes(parser)

    # What the policy is measured on.
    parser.add_argument(
        "--suite",
        default=WORLD,
        help="what to measure on: shapes, the embedded world (default), or a benchmark "
        "(docs/suites.md)",
    )
    parser.add_argument(
        "--data", type=path_flag, help="file or folder of a benchmark, as its owner publishes it"
    )
    parser.add_argument(
        "--n",
        type=number(PositiveInt),
        help="records or questions (default: 512 of shapes, else all)",
    )
    parser.add_argument(
        "--seed",
        type=number(Seed),
        help="of the choice of records and of sampling (default: 0)",
    )
    # ``--guidance`` is short for it.
    parser.add_argument(
        "--guidance-scale",
        "--guidance",
        dest="guidance_scales",
        type=number(Weight),
        nargs="+",
        help="scales of classifier-free guidance, 1 for none (default: 1 1.5 2 of shapes, else 5)",
    )
    add_plan(parser)
    _add_questions(parser)
    _add_pictures(parser)

    # Where the numbers go.
    parser.add_argument(
        "--out",
        type=path_flag,
        required=True,
        help="folder for the results; the same command goes on in it. For shapes also a .json file, "
        "for the metrics alone",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace that file")


def _add_questions(parser: argparse.ArgumentParser) -> None:
    """Adds flags of how questions are asked."""
    parser.add_argument(
        "--completion-length",
        type=number(PositiveInt),
        help="most tokens of an answer (default: that of the benchmark)",
    )
    parser.add_argument(
        "--plain-roles",
        action="store_true",
        help="write User and Assistant as words, as VLMEvalKit does for Janus",
    )
    parser.add_argument(
        "--batch-size",
        type=number(PositiveInt),
        default=BATCH_SIZE,
        help=f"questions or pictures per call (default: {BATCH_SIZE})",
    )


def _add_pictures(parser: argparse.ArgumentParser) -> None:
    """Adds flags of how pictures are drawn, scored and judged."""
    parser.add_argument(
        "--samples", type=number(Samples), help="pictures per prompt (default: as the suite needs)"
    )
    parser.add_argument(
        "--temperature",
        type=number(Weight),
        help="of the pictures of a generation suite (default: 1)",
    )
    parser.add_argument(
        "--scores",
        default="",
        help="of the pictures of a generation suite: clip_score and rewards, separated by commas",
    )
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME=SOURCE",
        help="a reward model of --scores: a folder, hub id, or tiny",
    )
    parser.add_argument("--detector", default="", help="folder of an OWLv2 that judges GenEval")
    parser.add_argument("--judge-clip", default="", help="CLIP of that judge, which names colours")


def run(args: argparse.Namespace) -> int:
    """Evaluates, writes the results and prints a table."""
    connect(args)
    metrics = run_suite(args)
    for name, metric in metrics.items():
        stderr = "" if metric["stderr"] is None else f" +- {metric['stderr']:.3f}"
        print(f"{name:24} {metric['value']:.3f}{stderr}  n={metric['n']}")
    return 0
