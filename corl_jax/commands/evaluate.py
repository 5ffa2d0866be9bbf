"""Measures a policy on held-out records and writes the numbers as JSON."""

from __future__ import annotations

import argparse

from corl_jax.commands.common import add_devices, add_policy, check_file, number, path_flag
from corl_jax.core.checks.config_block import PositiveInt, Seed, Weight
from corl_jax.core.errors import UserError
from corl_jax.core.files import write_json

SUITES = ("shapes",)
# Records per compiled call.
BATCH_SIZE = 64


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    add_policy(parser)
    add_devices(parser)

    # What the policy is measured on.
    parser.add_argument(
        "--suite", default="shapes", help="what to measure on: shapes, the embedded world"
    )
    parser.add_argument(
        "--n", type=number(PositiveInt), default=512, help="held-out records (default: 512)"
    )
    parser.add_argument(
        "--seed",
        type=number(Seed),
        default=0,
        help="of the choice of records and of sampling (default: 0)",
    )
    # ``--guidance`` is short for it.
    parser.add_argument(
        "--guidance-scale",
        "--guidance",
        dest="guidance_scales",
        type=number(Weight),
        nargs="+",
        default=[1.0, 1.5, 2.0],
        help="scales of classifier-free guidance, 1 for none (default: 1 1.5 2)",
    )

    # Where the numbers go.
    parser.add_argument("--out", type=path_flag, required=True, help="JSON file for the numbers")
    parser.add_argument("--overwrite", action="store_true", help="replace that file")


def run(args: argparse.Namespace) -> int:
    """Evaluates, writes the file and prints a table.

    The file has metrics by name, as each side of a run's ``eval.json`` has, and ``about``: what was
    evaluated.
    """
    if args.suite not in SUITES:
        raise UserError(f"--suite must be {' or '.join(SUITES)}; got {args.suite!r}")
    check_file(args.out, "--out", args.overwrite)

    # Imported after the checks, so that help and errors are quick.
    from corl_jax.core import provenance
    from corl_jax.data.pipeline import held_out_records
    from corl_jax.data.shapes import builder
    from corl_jax.evals.config import EvalPolicy, EvalSampling
    from corl_jax.evals.runner import evaluate
    from corl_jax.sampling.policy import Policy

    # The records depend on ``n`` and ``seed`` alone, so that policies are compared on the same.
    policy = Policy.load(args.policy, devices=args.devices)
    records = held_out_records(builder.source(split="test"), args.n, args.seed)
    with policy.on_devices():
        metrics = evaluate(
            EvalPolicy(policy.fns, policy.params, policy.tokenizer),
            records,
            args.guidance_scales,
            EvalSampling(args.seed, BATCH_SIZE),
        )

    # The file also says where its numbers are from.
    about = {
        "policy": args.policy,
        "suite": args.suite,
        "n": args.n,
        "seed": args.seed,
        "machine": provenance.machine(),
        "versions": provenance.versions(),
    }
    write_json(args.out, {**metrics, "about": about})
    for name, metric in metrics.items():
        stderr = "" if metric["stderr"] is None else f" +- {metric['stderr']:.3f}"
        print(f"{name:24} {metric['value']:.3f}{stderr}  n={metric['n']}")
    return 0
