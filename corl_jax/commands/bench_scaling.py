"""A training step on 1, 2, 4 and 8 fake CPU devices, and by the size of the step on one."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from corl_jax.core.errors import UserError


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("--size", default="tiny", help="dot, tiny or mid (default: tiny)")
    parser.add_argument(
        "--devices", type=_counts, default=(1, 2, 4, 8), help="how many (default: 1,2,4,8)"
    )
    parser.add_argument(
        "--image-tokens",
        type=_counts,
        default=(16, 64, 144),
        help="other pictures than the size's (16,64,144)",
    )
    parser.add_argument("--repeats", type=int, default=3, help="steps of each setting (default: 3)")


def measure(args: argparse.Namespace, log: Callable[[str], None]) -> dict[str, Any]:
    """Prints two tables; the values for JSON: samples per second on most devices (``ours``) and on one (``theirs``)."""
    from corl_jax.bench.scaling import measure, over_devices, over_sizes, overhead
    from corl_jax.bench.workloads import size_named, with_image_tokens

    cfg = size_named(args.size)
    for count in args.image_tokens:
        with_image_tokens(cfg, count)
    if args.devices[0] != 1:
        raise UserError(
            f"--devices starts with {args.devices[0]}; expected 1, which the others are compared with"
        )
    spread = measure(args.size, over_devices(args.devices), args.repeats, log)
    one = spread[0]
    print(f"{'devices':>7} {'prompts':>8} {'s/step':>8} {'samples/s':>10} {'overhead':>9}")
    for row in spread:
        cells = f"{row.setting.devices:7} {row.setting.prompts:8} {row.seconds['total']:8.3f} {row.rate:10.1f}"
        print(f"{cells} {overhead(row, one):9.2f}")
    print(
        "overhead: time / (devices x time on one); the devices are threads on the same cores, so 1 is the best"
    )
    grown = measure(args.size, over_sizes(args.image_tokens), args.repeats, log)
    print(f"{'prompts':>7} {'group':>8} {'image tokens':>13} {'s/step':>8} {'samples/s':>10}")
    for row in grown:
        tokens = row.setting.image_tokens or cfg.image_tokens
        cells = f"{row.setting.prompts:7} {row.setting.group:8} {tokens:13}"
        print(f"{cells} {row.seconds['total']:8.3f} {row.rate:10.1f}")
    return {
        "size": args.size,
        "against": "one device",
        "ours": spread[-1].rate,
        "theirs": one.rate,
        "ratio": spread[-1].rate / one.rate,
        "unit": "samples/s",
        "devices": [_told(row) | {"overhead": overhead(row, one)} for row in spread],
        "sizes": [_told(row) for row in grown],
    }


def _told(row: Any) -> dict[str, Any]:
    return vars(row.setting) | {"seconds": row.seconds, "samples_per_second": row.rate}


def _counts(text: str) -> tuple[int, ...]:
    counts = tuple(int(part) for part in text.split(","))
    if min(counts) < 1:
        raise argparse.ArgumentTypeError(f"{text} holds a number below 1")
    return counts
