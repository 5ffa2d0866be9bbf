"""Attention kernels that this backend has, against the plain one."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from corl_jax.core.errors import UserError


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument(
        "--size",
        default="mid",
        help="dot, tiny, mid or janus_pro_1b: heads and lengths (default: mid)",
    )
    parser.add_argument("--repeats", type=int, default=5, help="timings of everything (default: 5)")


def measure(args: argparse.Namespace, log: Callable[[str], None]) -> dict[str, Any]:
    """Prints a table; the values for JSON: milliseconds of all cases on the fastest kernel (``ours``) and the plain."""
    import jax

    from corl_jax.bench.attention_speed import PLAIN, cases, measure
    from corl_jax.bench.workloads import SIZES
    from corl_jax.core.runtime import compute_dtype

    if args.size not in SIZES:
        raise UserError(f"unknown size {args.size!r}; expected one of {', '.join(SIZES)}")
    dtype = compute_dtype("auto")
    rows: list[dict[str, Any]] = []
    totals: dict[str, float] = {}
    print(
        f"{'case':8} {'rows x length x heads x size':>28} {'kernel':>8} {'forward':>9} {'backward':>9} {'deviation':>9}"
    )
    for case in cases(args.size):
        shape = f"{case.rows} x {case.length} x {case.heads} x {case.head_size}"
        found, refused = measure(case, args.repeats, dtype)
        for row in found:
            times = f"{row.forward_ms:9.2f} {row.backward_ms:9.2f} {row.deviation:9.1e}"
            print(f"{case.name:8} {shape:>28} {row.kernel:>8} {times}")
            totals[row.kernel] = totals.get(row.kernel, 0.0) + row.forward_ms + row.backward_ms
            rows.append(vars(row) | {"case": vars(case) | {"length": case.length}})
        for why in refused.values():
            log(why)
    best = min(totals, key=lambda name: totals[name])
    print(
        f"milliseconds; backward is value and gradient; {jax.numpy.dtype(dtype).name}; fastest in all: {best}"
    )
    return {
        "size": args.size,
        "against": PLAIN,
        "best": best,
        "ours": totals[best],
        "theirs": totals[PLAIN],
        "ratio": totals[PLAIN] / totals[best],
        "unit": "ms",
        "dtype": jax.numpy.dtype(dtype).name,
        "kernels": rows,
    }
