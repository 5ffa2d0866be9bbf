"""Says whether a policy's sampler and scorer agree, token by token."""

from __future__ import annotations

import argparse

from corl_jax.commands.common import add_policy, check_file, path_flag
from corl_jax.core.files import write_json


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
    parser.add_argument("--json", type=path_flag, help="also write the result to this file")


def run(args: argparse.Namespace) -> int:
    """Prints a table of gaps; 0 if rounding explains them, else 1. An int8 sampler has no limit."""
    if args.json is not None:
        check_file(args.json, "--json", overwrite=True)

    # Imported after the checks, so that help and errors are quick.
    import jax

    from corl_jax.core import provenance
    from corl_jax.evals.config import EvalPolicy
    from corl_jax.evals.sampler_scorer_gap import TOLERANCE, measure_log_prob_gaps
    from corl_jax.sampling.policy import Policy

    # In float32, where rounding is small enough to tell it from a mistake.
    policy = Policy.load(args.policy, dtype="float32")
    gaps = measure_log_prob_gaps(
        EvalPolicy(policy.fns, policy.params, policy.tokenizer),
        weights_dtype=args.rollout_weights,
        cache_dtype=args.rollout_cache,
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

    # One line per kind of sample.
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    print(f"{'max_logprob_gap':18} {'sampler-scorer':>14} {'shared prefix':>14}")
    for name, gap in gaps.sampler.items():
        print(f"{name:18} {gap:14.2e} {gaps.shared_prefix[name]:14.2e}")
    print(f"{verdict} (limit {TOLERANCE:g} in float32, {device})")
    if not exact:
        print("sampler-scorer is what rounding to int8 costs, and is held to no limit")

    if args.json is not None:
        values = {
            "max_logprob_gap": gaps.sampler,
            "shared_prefix_gap": gaps.shared_prefix,
            "ok": ok,
            "rollout": {"weights": args.rollout_weights, "cache": args.rollout_cache},
            "limit": TOLERANCE,
            "device": device,
            "versions": provenance.versions(),
        }
        write_json(args.json, values)
    return 0 if ok else 1
