"""Image tokens per second of a rollout, beside transformers."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable
from typing import Any

from corl_jax.core.errors import UserError

UNIT = "image tokens/s"
REPEATS = {"dot": 2, "tiny": 5, "mid": 2, "janus_pro_1b": 2}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument(
        "--size",
        default="tiny",
        help="dot, tiny, mid, or (not on a CPU) janus_pro_1b (default: tiny)",
    )
    parser.add_argument(
        "--against", default="transformers", choices=("transformers",), help="beside what"
    )
    parser.add_argument(
        "--repeats", type=int, help="timings of each side (default: 5 at tiny, else 2)"
    )
    text = "devices that share our side, each with rows of its own; on a CPU they are threads (default: 1)"
    parser.add_argument("--devices", type=int, default=1, help=text)
    parser.add_argument(
        "--profile", type=pathlib.Path, help="also write a JAX trace of one draw to this folder"
    )


def measure(args: argparse.Namespace, log: Callable[[str], None]) -> dict[str, Any]:
    """Prints a table of both sides; the values for JSON."""
    from corl_jax.bench.decode_speed import PROMPTS, measure
    from corl_jax.bench.workloads import size_named
    from corl_jax.core.runtime import cpu_devices

    if args.devices < 1 or PROMPTS % args.devices:
        raise UserError(
            f"--devices={args.devices} does not divide the {PROMPTS} prompts; expected 1, 2, 4 or 8"
        )
    cpu_devices(args.devices)
    found = measure(
        size_named(args.size), args.repeats or REPEATS[args.size], args.devices, log, args.profile
    )
    names = ("load", "compile", "pixels")
    print(f"{args.size:14} {UNIT:>14} " + " ".join(f"{name + ' (s)':>12}" for name in names))
    for side, rate in (("ours", found.ours), ("transformers", found.theirs)):
        seconds = found.seconds["ours" if side == "ours" else "theirs"]
        cells = (f"{seconds[name]:12.2f}" if name in seconds else f"{'-':>12}" for name in names)
        print(f"{side:14} {rate:14.1f} " + " ".join(cells))
    print(f"ratio {found.ratio:.2f}, torch on {found.threads} threads")
    return {
        "size": args.size,
        "against": args.against,
        "devices": args.devices,
        "ours": found.ours,
        "theirs": found.theirs,
        "ratio": found.ratio,
        "unit": UNIT,
        "seconds": found.seconds,
        "torch_threads": found.threads,
    }
