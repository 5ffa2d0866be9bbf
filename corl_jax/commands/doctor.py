"""Says whether a policy's sampler and scorer agree, token by token."""

from __future__ import annotations

import argparse
import pathlib

from corl_jax.commands.common import add_policy, check_file
from corl_jax.core.files import write_json


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    add_policy(parser)
    for part in ("weights", "cache"):
        what = f"how the sampler holds its {part}: as the policy does, or in eight bits"
        parser.add_argument(
            f"--rollout-{part}", choices=("same", "int8"), default="same", help=what
        )
    parser.add_argument("--json", type=pathlib.Path, help="also write the result to this file")


def run(args: argparse.Namespace) -> int:
    """Prints a table of gaps; 0 when rounding explains them, 1 when not. A sampler in int8 is held to no limit."""
    if args.json is not None:
        check_file(args.json, "--json", overwrite=True)

    import jax

    from corl_jax.core import provenance
    from corl_jax.evals.sampler_scorer_gap import TOLERANCE, measure_agreement
    from corl_jax.sampling.policy import Policy

    policy = Policy.load(args.policy, dtype="float32")
    held = {"weights": args.rollout_weights, "cache": args.rollout_cache}
    found = measure_agreement(policy.sampler, policy.params, policy.tokenizer, **held)
    exact = set(held.values()) == {"same"}
    ok = found.ok if exact else found.prefix_ok
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    print(f"{'max_logprob_gap':18} {'sampler-scorer':>14} {'shared prefix':>14}")
    for name, gap in found.scorer.items():
        print(f"{name:18} {gap:14.2e} {found.prefix[name]:14.2e}")
    verdict = (
        "OK"
        if ok
        else "NOT OK: sampler and scorer disagree"
        if exact
        else "NOT OK: the scorer disagrees"
    )
    print(f"{verdict} (limit {TOLERANCE:g} in float32, {device})")
    if not exact:
        print("sampler-scorer is what rounding to int8 costs, and is held to no limit")
    if args.json is not None:
        value = {
            "max_logprob_gap": found.scorer,
            "shared_prefix_gap": found.prefix,
            "ok": ok,
            "rollout": held,
            "limit": TOLERANCE,
            "device": device,
            "versions": provenance.versions(),
        }
        write_json(args.json, value)
    return 0 if ok else 1
