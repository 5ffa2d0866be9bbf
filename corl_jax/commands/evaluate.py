"""Measures a policy on a suite: the embedded world, or a benchmark in its owner's files."""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

from corl_jax.commands.common import (
    add_devices,
    add_policy,
    add_processes,
    check_file,
    connect,
    number,
    path_flag,
)
from corl_jax.core.checks.config_block import PositiveInt, Seed, Weight
from corl_jax.core.errors import UserError
from corl_jax.core.files import write_json

WORLD = "shapes"
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

    # Where the numbers go.
    parser.add_argument(
        "--out",
        type=path_flag,
        required=True,
        help="folder for the results; the same command goes on in it. For shapes also a .json file, "
        "for the metrics alone",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace that file")


def run(args: argparse.Namespace) -> int:
    """Evaluates, writes the results and prints a table."""
    connect(args)
    metrics = _run_world(args) if args.suite == WORLD else _run_questions(args)
    for name, metric in metrics.items():
        stderr = "" if metric["stderr"] is None else f" +- {metric['stderr']:.3f}"
        print(f"{name:24} {metric['value']:.3f}{stderr}  n={metric['n']}")
    return 0


def _run_world(args: argparse.Namespace) -> dict[str, Any]:
    """The embedded world, into a folder with every record or into a file with the metrics.

    The file has metrics by name, as each side of a run's ``eval.json`` has, and ``about``: what was
    evaluated.
    """
    if args.data is not None:
        raise UserError(
            f"--data is for benchmarks, the embedded world has its own; got {args.data}"
        )
    is_file = args.out.suffix == ".json"
    if is_file:
        check_file(args.out, "--out", args.overwrite)

    # Imported after the checks, so that help and errors are quick.
    from corl_jax.data.pipeline import held_out_records
    from corl_jax.data.shapes import builder
    from corl_jax.evals.config import EvalPolicy, EvalSampling
    from corl_jax.evals.runner import evaluate
    from corl_jax.sampling.policy import Policy
    from corl_jax.suites.world_suite import run_world_suite

    # The records depend on ``n`` and ``seed`` alone, so that policies are compared on the same.
    policy = Policy.load(args.policy, devices=args.devices)
    count = args.n or 512
    records = held_out_records(builder.source(split="test"), count, args.seed)
    about = _about(args.policy, policy) | {"suite": WORLD, "n": count, "seed": args.seed}
    evaluated = EvalPolicy(policy.fns, policy.params, policy.tokenizer)
    sampling = EvalSampling(args.seed, args.batch_size)

    with policy.on_devices():
        if not is_file:
            return run_world_suite(
                evaluated, records, args.guidance_scales, sampling, args.out, about
            )
        metrics = evaluate(evaluated, records, args.guidance_scales, sampling)
    write_json(args.out, {**metrics, "about": about})
    return metrics


def _run_questions(args: argparse.Namespace) -> dict[str, Any]:
    """A benchmark of questions, into a folder."""
    from corl_jax.suites.answering import AnswerOptions
    from corl_jax.suites.benchmarks import benchmarks, read_questions
    from corl_jax.suites.dumps import check_workbooks
    from corl_jax.suites.question_suite import check_references, run_question_suite

    if args.suite not in benchmarks:
        known = ", ".join((WORLD, *sorted(benchmarks)))
        raise UserError(f"--suite must be one of {known}; got {args.suite!r}")
    if args.data is None:
        raise UserError(
            f"--suite {args.suite} needs --data, the file or folder as its owner publishes it "
            "(docs/suites.md says where it is)"
        )
    check_workbooks()
    benchmark = benchmarks[args.suite]
    questions = read_questions(args.suite, args.data)[: args.n]
    check_references(benchmark, questions)

    from corl_jax.sampling.policy import Policy

    policy = Policy.load(args.policy, devices=args.devices, data_parallel=True)
    options = AnswerOptions(
        args.completion_length or benchmark.answer_tokens, args.batch_size, args.plain_roles
    )
    return run_question_suite(
        args.suite, questions, policy, options, args.out, _about(args.policy, policy)
    )


def _about(name: str, policy: Any) -> dict[str, Any]:
    """Where the numbers are from: the policy and the machine."""
    import jax.numpy as jnp

    from corl_jax.core import provenance
    from corl_jax.core.runtime import compute_dtype
    from corl_jax.porting.policy_source import open_policy_source

    return {
        "policy": str(pathlib.PurePath(name)),
        "identity": open_policy_source(name).identity(),
        "dtype": jnp.dtype(compute_dtype("auto")).name,
        "machine": provenance.machine(),
        "versions": provenance.versions(),
    }
