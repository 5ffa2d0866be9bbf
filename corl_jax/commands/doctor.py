"""Says whether a policy's sampler and scorer agree, token by token."""

from __future__ import annotations

import argparse
import pathlib

from corl_jax.commands.common import add_policy, check_file, write_json


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    add_policy(parser)
    parser.add_argument("--json", type=pathlib.Path, help="also write the result to this file")


def run(args: argparse.Namespace) -> int:
    """Prints a table of gaps; 0 when rounding explains them, 1 when not."""
    if args.json is not None:
        check_file(args.json, "--json", overwrite=True)

    import jax

    from corl_jax.evals import provenance
    from corl_jax.evals.agreement import TOLERANCE, measure
    from corl_jax.sampling.policy import Policy

    policy = Policy.load(args.policy, dtype="float32")
    found = measure(policy.sampler, policy.params, policy.tokenizer)
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    print(f"{'max_logprob_gap':18} {'sampler-scorer':>14} {'shared prefix':>14}")
    for name, gap in found.scorer.items():
        print(f"{name:18} {gap:14.2e} {found.prefix[name]:14.2e}")
    verdict = "OK" if found.ok else "NOT OK: sampler and scorer disagree"
    print(f"{verdict} (limit {TOLERANCE:g} in float32, {device})")
    if args.json is not None:
        value = {
            "max_logprob_gap": found.scorer,
            "shared_prefix_gap": found.prefix,
            "ok": found.ok,
            "limit": TOLERANCE,
            "device": device,
            "versions": provenance.versions(),
        }
        write_json(args.json, value)
    return 0 if found.ok else 1
