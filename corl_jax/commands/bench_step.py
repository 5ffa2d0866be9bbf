"""Seconds of a whole training step (rollouts of both tasks, update), beside transformers."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from corl_jax.core.errors import UserError

UNIT = "steps/s"
REPEATS = {"dot": 3, "tiny": 5, "mid": 2, "janus_pro_1b": 2}
LARGE = ("mid", "janus_pro_1b")
"""Where torch's updates are added up by half the samples of a prompt: at ``mid`` the image logits of a group are
0.3 GB, and are held several times. Ours are added up prompt by prompt everywhere."""
LARGE_UPDATE: dict[str, Any] = {"chunk": 72, "remat": "dots", "unroll": 1}
"""How ours updates at those sizes: to make activations anew costs a CPU less than fresh pages of memory for them."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument(
        "--size",
        default="tiny",
        help="dot, tiny, mid, or (not on a CPU) janus_pro_1b (default: tiny)",
    )
    parser.add_argument(
        "--against",
        default="transformers",
        choices=("transformers", "nothing"),
        help="beside what (transformers)",
    )
    parser.add_argument("--prompts", type=int, default=2, help="of each task (default: 2)")
    parser.add_argument("--group", type=int, default=8, help="samples per prompt (default: 8)")
    parser.add_argument(
        "--image-tokens", type=int, help="of every picture (default: what the size has)"
    )
    text = "devices that share our side, each with rows of its own; on a CPU they are threads (default: all there are)"
    parser.add_argument("--devices", type=int, help=text)
    parser.add_argument(
        "--repeats", type=int, help="steps of each side (default: 5 at tiny, 2 at mid)"
    )
    parser.add_argument(
        "--profile", type=pathlib.Path, help="also write a JAX trace of one step to this folder"
    )


def measure(args: argparse.Namespace, log: Callable[[str], None]) -> dict[str, Any]:
    """Prints a table by phase; the values for JSON, in which ``ours`` and ``theirs`` are steps per second."""
    from corl_jax.bench.timing import PHASES, Work
    from corl_jax.bench.train_step import measure
    from corl_jax.bench.workloads import size_named, with_image_tokens
    from corl_jax.core.runtime import cpu_devices

    if args.devices is not None:
        if args.devices < 1 or args.prompts % args.devices:
            raise UserError(
                f"--devices={args.devices} does not divide the {args.prompts} prompts; expected a divisor of "
                "--prompts, which may be larger"
            )
        cpu_devices(args.devices)
    cfg = size_named(args.size)
    if args.image_tokens is not None:
        cfg = with_image_tokens(cfg, args.image_tokens)
    work = Work(args.prompts, args.group, microbatches=args.prompts)
    if args.size in LARGE:
        torch_parts = args.prompts * (2 if args.group % 2 == 0 else 1)
        work = dataclasses.replace(work, torch_parts=torch_parts, **LARGE_UPDATE)
    beside = args.against == "transformers"
    repeats = args.repeats or REPEATS[args.size]
    found = measure(
        cfg, work, repeats, args.devices, beside_torch=beside, log=log, profile=args.profile
    )
    phases = {}
    print(
        f"{args.size:14} {'ours (s)':>12}"
        + (f" {'theirs (s)':>12} {'ratio':>7} {'threads':>8}" if beside else "")
    )
    for phase in PHASES:
        ours, line = (
            found.seconds["ours"][phase],
            f"{phase:14} {found.seconds['ours'][phase]:12.3f}",
        )
        phases[phase] = {"ours": ours}
        if found.threads is not None:
            theirs = found.seconds["theirs"][phase]
            phases[phase] |= {"theirs": theirs, "ratio": theirs / ours}
            threads = "" if phase == "total" else found.threads[phase]
            line += f" {theirs:12.3f} {theirs / ours:7.2f} {threads:>8}"
        print(line)
    print(
        f"{work.prompts} prompts and questions x {work.group} samples, {cfg.image_tokens} image tokens, "
        f"answers of {work.answer}; first step of ours {found.first_step:.1f} s"
    )
    return {
        "size": args.size,
        "against": args.against,
        "devices": args.devices,
        "ours": 1 / found.seconds["ours"]["total"],
        "theirs": 1 / found.seconds["theirs"]["total"] if beside else None,
        "ratio": phases["total"]["ratio"] if beside else None,
        "unit": UNIT,
        "phases": phases,
        "first_step_seconds": found.first_step,
        "torch_threads": found.threads,
        "work": vars(work) | {"image_tokens": cfg.image_tokens},
    }
