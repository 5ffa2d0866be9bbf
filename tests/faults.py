"""Hurts small real runs at random moments in random ways, and checks what comes out.

    python tests/faults.py [--runs 66] [--seed 0] [--jobs 2] [--kinds KIND ...] [--out faults.json]

Every run is ``python -m corl_jax.main`` in a process of its own (some in two): a few steps of the
smallest policy. After it was hurt, the same command, or the mended one, is run to its end. It must
go on from the last checkpoint and end with the bits of a run that nothing happened to: parameters,
moments of the optimizer, state of the algorithm, rows of metrics, sheets of samples. A run that
does not succeed must end with exit code 2 and one line of error.

The exit code is 0 if every run survived. A run takes half a minute; ``--list`` names the kinds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import logging

ROOT = Path(__file__).resolve().parents[1]
# The checkout of this file is what is tested, whatever is installed.
sys.path.insert(0, str(ROOT))

from fault_campaign import (  # noqa: E402, F401
    change_kinds,
    damage_kinds,
    disk_kinds,
    host_kinds,
    misbehaviour_kinds,
    signal_kinds,
)
from fault_campaign.bench import Bench  # noqa: E402
from fault_campaign.campaign import Result, plan, run_campaign  # noqa: E402
from fault_campaign.inputs import write_inputs  # noqa: E402
from fault_campaign.kinds import KINDS  # noqa: E402
from fault_campaign.table import format_problems, format_table, to_json  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a campaign; 0 where every run survived."""
    args = parse_args(argv)
    if args.list:
        for kind in KINDS.values():
            print(f"{kind.name:20} {(kind.hurt.__doc__ or '').splitlines()[0]}")
        return 0

    kinds = list(dict.fromkeys(args.kinds or KINDS))
    if "full_disk" in kinds and not disk_kinds.name_space():
        print("full_disk is left out: this kernel lets nobody mount a small disk", file=sys.stderr)
        kinds.remove("full_disk")
        if not kinds:
            return 1

    # This process only reads checkpoints. Orbax warns of files that newer versions of it write.
    jax.config.update("jax_platforms", "cpu")
    logging.set_verbosity(logging.ERROR)
    with contextlib.ExitStack() as stack:
        folder = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        start = time.monotonic()
        bench = Bench(write_inputs(folder / "inputs"), folder / "unbroken")
        results = run_campaign(
            bench,
            folder / "trials",
            plan(kinds, args.runs),
            seed=args.seed,
            jobs=args.jobs,
            report=report,
        )

    seconds = round(time.monotonic() - start)
    print(format_table(results))
    print(f"{seconds} s; seed {args.seed}, commit {commit()}")
    if problems := format_problems(results):
        print(f"\n{problems}")
    if args.out:
        content = to_json(results, seed=args.seed, commit=commit(), seconds=seconds)
        args.out.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    return 0 if all(result.survived for result in results) else 1


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=66, help="runs to hurt; kinds take turns")
    parser.add_argument("--seed", type=int, default=0, help="of everything random but time itself")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--kinds", nargs="*", choices=KINDS, help="kinds to use; all by default")
    parser.add_argument("--out", type=Path, help="JSON file for the table and every run")
    parser.add_argument("--folder", type=Path, help="new folder that keeps all files of the runs")
    parser.add_argument("--list", action="store_true", help="print the kinds and end")
    args = parser.parse_args(argv)
    if args.runs < 1 or args.jobs < 1:
        parser.error("--runs and --jobs must be at least 1")
    return args


def report(result: Result) -> None:
    """One line on stderr as a run is done."""
    verdict = "survived" if result.survived else f"FAILED: {result.problem}"
    print(f"{result.number:03d} {result.kind} ({result.seconds} s) {verdict}", file=sys.stderr)


def commit() -> str:
    """The commit of the checkout, with a plus where files differ from it."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--abbrev=7"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
