"""Says whether a policy's sampler and scorer agree, token by token."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from corl_jax.commands.common import add_policy, check_file, number, path_flag
from corl_jax.core.checks.config_block import Interval
from corl_jax.core.files import write_json

if TYPE_CHECKING:
    from corl_jax.evals.sampler_scorer_gap import LogProbGaps, RoundingGap

FULL_SIZE = ("bfloat16", 5.0)
"""Dtype and guidance scale of a run at full size."""

MAX_OUTSIDE = 0.01
"""Share of tokens outside from which weighing them is advised."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    add_policy(parser)
    # As config.rl.rollout.weights_dtype and cache_dtype.
    for name in ("weights", "cache"):
        parser.add_argument(
            f"--rollout-{name}",
            choices=("same", "int8"),
            default="same",
            help=f"dtype of the sampler's {name}: the same as the policy's, or int8",
        )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of a run, for what its rounding costs (default: that of the run in --policy where it "
        f"is a work directory and names one, else {FULL_SIZE[0]})",
    )
    parser.add_argument(
        "--guidance",
        type=number(Annotated[float, Interval(ge=0)]),
        help="scale of classifier-free guidance of a run (default: that of the run in --policy, "
        f"else {FULL_SIZE[1]:g})",
    )
    parser.add_argument("--json", type=path_flag, help="also write the result to this file")


def run(args: argparse.Namespace) -> int:
    """Prints a table of gaps; 0 if rounding explains them, else 1. An int8 sampler has no limit."""
    if args.json is not None:
        check_file(args.json, "--json", overwrite=True)

    # Imported after the checks, so that help and errors are quick.
    import jax

    from corl_jax.core import provenance
    from corl_jax.evals.config import EvalPolicy
    from corl_jax.evals.sampler_scorer_gap import (
        TOLERANCE,
        measure_log_prob_gaps,
        measure_rounding_gaps,
    )
    from corl_jax.sampling.policy import Policy

    dtype, guidance = _run_settings(args)
    sampler_dtypes = {"weights_dtype": args.rollout_weights, "cache_dtype": args.rollout_cache}

    # In float32, where rounding is small enough to tell it from a mistake.
    policy = Policy.load(args.policy, dtype="float32")
    gaps = measure_log_prob_gaps(
        EvalPolicy(policy.fns, policy.params, policy.tokenizer), **sampler_dtypes
    )

    # An int8 sampler is meant to differ from the scorer, so only the two scorers are compared.
    exact = args.rollout_weights == args.rollout_cache == "same"
    ok = gaps.ok if exact else gaps.shared_prefix_ok
    if ok:
        verdict = "OK"
    elif exact:
        verdict = "NOT OK: sampler and scorer disagree"
    else:
        verdict = "NOT OK: the scorer disagrees"

    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    _print_gaps(gaps, f"{verdict} (limit {TOLERANCE:g} in float32, {device})")
    if not exact:
        print("sampler-scorer is what rounding to int8 costs, and is held to no limit")

    # What rounding costs in the dtype of a run, whose programs read the same parameters.
    run_policy = policy.with_dtype(dtype)
    rounding = measure_rounding_gaps(
        EvalPolicy(run_policy.fns, run_policy.params, run_policy.tokenizer),
        guidance,
        **sampler_dtypes,
    )
    _print_rounding(rounding, dtype)

    if args.json is not None:
        values = {
            "max_logprob_gap": gaps.sampler,
            "shared_prefix_gap": gaps.shared_prefix,
            "ok": ok,
            "rollout": {"weights": args.rollout_weights, "cache": args.rollout_cache},
            "limit": TOLERANCE,
            "rounding": {
                "dtype": dtype,
                "guidance": guidance,
                "mean_gap": {name: cost.mean for name, cost in rounding.items()},
                "outside": {name: cost.outside for name, cost in rounding.items()},
            },
            "device": device,
            "versions": provenance.versions(),
        }
        write_json(args.json, values)
    return 0 if ok else 1


def _print_gaps(gaps: LogProbGaps, verdict: str) -> None:
    """Prints one line per kind of sample, and the verdict."""
    print(f"{'max_logprob_gap':18} {'sampler-scorer':>14} {'shared prefix':>14}")
    for name, gap in gaps.sampler.items():
        print(f"{name:18} {gap:14.2e} {gaps.shared_prefix[name]:14.2e}")
    print(verdict)


def _print_rounding(rounding: Mapping[str, RoundingGap], dtype: str) -> None:
    """Prints one line per kind of sample, and what to do about many tokens outside."""
    from corl_jax.evals.sampler_scorer_gap import RATIO_MARGIN

    print(f"\n{dtype:18} {'mean gap':>14} {f'outside 1+-{RATIO_MARGIN:g}':>14}")
    for name, gap in rounding.items():
        print(f"{name:18} {gap.mean:14.2e} {gap.outside:14.2%}")
    if any(gap.outside > MAX_OUTSIDE for gap in rounding.values()):
        print("config.rl.loss.importance_cap=2 weighs such tokens in a run")


def _run_settings(args: argparse.Namespace) -> tuple[str, float]:
    """Dtype and guidance scale of the run that is asked about.

    Raises:
      UserError: a work directory whose config cannot be read.
    """
    from corl_jax.report.run_files import read_config

    dtype, guidance = FULL_SIZE
    folder = pathlib.Path(args.policy)
    if (folder / "config.json").is_file() and (folder / "checkpoints").is_dir():
        config = read_config(folder)
        named_dtype = config.block("model").text("compute_dtype")
        dtype = dtype if named_dtype == "auto" else named_dtype
        if config.has("rl"):
            guidance = config.block("rl").block("rollout").number("guidance_scale")
    return args.dtype or dtype, guidance if args.guidance is None else args.guidance
