"""Times image decoding beside transformers on this machine."""

from __future__ import annotations

import argparse
import pathlib
import sys

from corl_jax.commands.common import check_file, write_json
from corl_jax.core.errors import UserError

UNIT = "image tokens/s"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("what", choices=("decode",), help="what to time: decode, the drawing of image tokens")
    parser.add_argument("--size", default="tiny", help="tiny, mid, or (not on a CPU) janus_pro_1b (default: tiny)")
    parser.add_argument("--against", default="transformers", choices=("transformers",), help="beside what")
    parser.add_argument("--repeats", type=int, help="timings of each side (default: 5 at tiny, else 2)")
    parser.add_argument("--json", type=pathlib.Path, help="also write the result to this file")


def run(args: argparse.Namespace) -> int:
    """Prints a table of both sides; progress goes to stderr."""
    if args.repeats is not None and args.repeats < 1:
        raise UserError(f"--repeats={args.repeats} is no number of timings; expected 1 or more")
    if args.json is not None:
        check_file(args.json, "--json", overwrite=True)

    import jax

    from corl_jax.evals import provenance
    from corl_jax.evals.bench_decode import SIZES, measure

    if args.size not in SIZES:
        raise UserError(f"unknown size {args.size!r}; expected one of {', '.join(SIZES)}")
    if args.size == "janus_pro_1b" and jax.default_backend() == "cpu":
        raise UserError("--size janus_pro_1b takes hours and about 30 GB on a CPU; use a GPU, or --size mid")
    _fresh_compilation()
    cfg, repeats = SIZES[args.size]
    found = measure(cfg, args.repeats or repeats, lambda line: print(line, file=sys.stderr, flush=True))
    names = ("load", "compile", "pixels")
    print(f"{args.size:14} {UNIT:>14} " + " ".join(f"{name + ' (s)':>12}" for name in names))
    for side, rate in (("ours", found.ours), ("transformers", found.theirs)):
        seconds = found.seconds["ours" if side == "ours" else "theirs"]
        cells = (f"{seconds[name]:12.2f}" if name in seconds else f"{'-':>12}" for name in names)
        print(f"{side:14} {rate:14.1f} " + " ".join(cells))
    print(f"ratio {found.ratio:.2f} ({provenance.machine()}; torch on {found.threads} threads)")
    if args.json is not None:
        value = {
            "size": args.size,
            "ours": found.ours,
            "theirs": found.theirs,
            "ratio": found.ratio,
            "unit": UNIT,
            "seconds": found.seconds,
            "torch_threads": found.threads,
            "device": provenance.machine(),
            "versions": provenance.versions() | provenance.versions_of("torch", "transformers"),
        }
        write_json(args.json, value)
    return 0


def _fresh_compilation() -> None:
    """Has everything compiled anew, so that the seconds are those of a first run."""
    import jax

    jax.config.update("jax_enable_compilation_cache", False)
