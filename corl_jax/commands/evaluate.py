"""Measures a policy on held-out records and writes the numbers as JSON."""

from __future__ import annotations

import argparse
import pathlib

from corl_jax.commands.common import add_devices, add_policy, check_file
from corl_jax.core.errors import UserError
from corl_jax.core.files import write_json

SUITES = ("shapes",)
BATCH = 64


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    add_policy(parser)
    add_devices(parser)
    parser.add_argument(
        "--suite", default="shapes", help="what to measure on: shapes, the embedded world"
    )
    parser.add_argument("--n", type=int, default=512, help="held-out records (default: 512)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the choice of records and of sampling (default: 0)"
    )
    parser.add_argument(
        "--guidance", type=float, nargs="+", default=[1.0, 1.5, 2.0], help="default: 1 1.5 2"
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, help="JSON file for the numbers")
    parser.add_argument("--overwrite", action="store_true", help="replace that file")


def run(args: argparse.Namespace) -> int:
    """Measures, writes, and prints a table.

    The file holds the numbers by name, as one side of a run's ``eval.json``, and ``about``: what was measured.
    """
    if args.suite not in SUITES:
        raise UserError(f"unknown suite {args.suite!r}; expected {', '.join(SUITES)}")
    check_file(args.out, "--out", args.overwrite)

    from corl_jax.core import provenance
    from corl_jax.data.pipeline import held_out_records
    from corl_jax.data.shapes import builder
    from corl_jax.evals.runner import evaluate
    from corl_jax.sampling.policy import Policy

    policy = Policy.load(args.policy, devices=args.devices)
    records = held_out_records(builder.source(split="test"), args.n, args.seed)
    with policy.on_devices():
        numbers = evaluate(
            policy.sampler,
            policy.params,
            policy.tokenizer,
            records,
            guidances=args.guidance,
            seed=args.seed,
            batch=BATCH,
        )
    about = {"policy": args.policy, "suite": args.suite, "n": args.n, "seed": args.seed}
    about |= {"machine": provenance.machine(), "versions": provenance.versions()}
    write_json(args.out, {**numbers, "about": about})
    for name, number in numbers.items():
        stderr = "" if number["stderr"] is None else f" +- {number['stderr']:.3f}"
        print(f"{name:24} {number['value']:.3f}{stderr}  n={number['n']}")
    return 0
