"""Says whether a config fits a TPU slice or GPU and what bounds it, before anyone pays for one."""

from __future__ import annotations

import argparse
import pathlib
import sys
from typing import TYPE_CHECKING

from corl_jax.commands.common import check_file
from corl_jax.core.errors import UserError
from corl_jax.core.files import write_json

if TYPE_CHECKING:
    from corl_jax.planner.roofline import Plan


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument("--config", required=True, help="such as configs/unified.py:janus_pro_1b")
    parser.add_argument("--topology", required=True, help="such as v5e:2x4, v5p:4x4x4 or h100:8")
    parser.add_argument(
        "changes", nargs="*", metavar="config.KEY=VALUE", help="changes to the config"
    )
    parser.add_argument(
        "--search", action="store_true", help="try meshes and micro-batches and rank them"
    )
    parser.add_argument("--json", type=pathlib.Path, help="also write the plan to this file")


def run(args: argparse.Namespace) -> int:
    """Prints the plan; progress goes to stderr. Exit code 1 says that it does not fit."""
    if args.json is not None:
        check_file(args.json, "--json", overwrite=True)
    if wrong := [
        text for text in args.changes if not text.startswith("config.") or "=" not in text
    ]:
        raise UserError(f"{wrong[0]!r} is no change to the config; expected config.KEY=VALUE")

    from absl import flags

    from corl_jax.main import parse
    from corl_jax.planner import search
    from corl_jax.planner.chips import open_slice

    sys.path.insert(
        0, ""
    )  # configs import each other from where they are called, as under python -m
    config, _, _ = parse(
        ["plan", f"--config={args.config}", *(f"--{text}" for text in args.changes)]
    )
    flags.FLAGS.mark_as_parsed()
    slice_ = open_slice(args.topology)
    if not args.search:
        found = [search.one(config, slice_, _log)]
    else:
        found = search.ranked(config, slice_, _log)
        print(
            f"{'data':>6}{'fsdp':>6}{'tensor':>8}{'micro':>7}{'peak GiB':>10}{'images/s/chip':>15}"
        )
        for one in found:
            mesh, peak = one.plan.mesh, one.plan.peak_gib
            rate = f"{one.plan.images_per_second_per_chip:.3f}" if one.plan.fits else "does not fit"
            axes = f"{mesh['data']:6}{mesh['fsdp']:6}{mesh['tensor']:8}"
            print(f"{axes}{one.step.microbatches:7}{peak:10.2f}{rate:>15}")
        print()
    best = found[0]
    print(table(best.plan, best.advice))
    if args.json is not None:
        write_json(args.json, search.as_json(best))
    return 0 if best.plan.fits else 1


def table(plan: Plan, advice: list[str]) -> str:
    """A plan for people."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    lines = [f"{plan.slice_name}, mesh {mesh}, {plan.hbm_gib:.0f} GiB a device"]
    if not plan.compiled:
        lines.append(
            "By formula: no compiler for this chip is at hand. Memory and bytes are estimates."
        )
    lines += [
        "",
        *(f"{name.replace('_', ' '):20}{gib:9.2f} GiB" for name, gib in plan.parts.items() if gib),
        "",
    ]
    lines.append(
        f"{'phase':15}{'peak GiB':>9}{'temp':>7}{'TFLOP':>9}{'GB':>9}{'links GB':>10}{'seconds':>9}  bound by"
    )
    for name, phase in plan.phases.items():
        if phase.peak_gib:
            lines.append(
                f"{name:15}{phase.peak_gib:9.2f}{phase.temp_gib:7.2f}{phase.flops / 1e12:9.1f}{phase.bytes / 1e9:9.1f}"
                f"{phase.collective_bytes / 1e9:10.2f}{phase.roofline_seconds:9.3f}  {phase.bound_by or phase.error}"
            )
    lines.append("")
    if plan.decode is not None:
        lines.append(
            f"an image token moves {plan.decode.bytes_over_minimum:.2f} times the least bytes; "
            f"temporary memory is {100 * plan.decode.temp_over_resident:.0f} % of weights and cache; "
            f"copies of a cache: {plan.decode.cache_copies}"
        )
    if plan.update_collectives_over_minimum is not None:
        lines.append(
            f"the update sends {plan.update_collectives_over_minimum:.2f} times the least bytes"
        )
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    lines.append(
        f"{verdict}: {plan.peak_gib:.2f} of {plan.hbm_gib:.0f} GiB; at best "
        f"{plan.images_per_second_per_chip:.3f} images/s on a device"
    )
    return "\n".join([*lines, *(f"  {text}" for text in advice)])


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
