"""``corl plan``: does a config fit a TPU slice or a GPU, and what bounds its speed?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from corl_jax.commands.common import check_file, path_flag
from corl_jax.core.errors import UserError
from corl_jax.core.files import write_json
from corl_jax.planner.compilers import check_releases

if TYPE_CHECKING:
    from corl_jax.planner.roofline import Phase, Plan
    from corl_jax.planner.search import PlanReport


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``corl plan``."""
    parser.add_argument("--config", required=True, help="such as configs/unified.py:janus_pro_1b")
    parser.add_argument("--topology", required=True, help="such as v5e:2x4, v5p:4x4x4 or h100:8")
    parser.add_argument(
        "changes", nargs="*", metavar="config.KEY=VALUE", help="changes to the config"
    )
    parser.add_argument(
        "--search", action="store_true", help="try meshes and micro-batches and rank them"
    )
    parser.add_argument("--phases", help="compile these phases alone, such as rollout_image,update")
    parser.add_argument(
        "--hlo",
        type=path_flag,
        help="write the compiled programs and what their loops move to this folder",
    )
    parser.add_argument("--json", type=path_flag, help="also write the plan to this file")


def run(args: argparse.Namespace) -> int:
    """Prints the plan, and progress to stderr. The exit code is 1 where the config does not fit."""
    # Wrong arguments end the command before JAX is imported.
    if args.json is not None:
        check_file(args.json, "--json", overwrite=True)
    for change in args.changes:
        if not change.startswith("config.") or "=" not in change:
            raise UserError(
                f"a change to the config must be config.KEY=VALUE; got {change!r}. "
                "Write for example config.microbatches=4"
            )

    check_releases(args.topology)

    from absl import flags

    from corl_jax.main import parse_command_line
    from corl_jax.planner import search
    from corl_jax.planner.chips import open_slice
    from corl_jax.planner.programs import PHASES

    phase_names = tuple(args.phases.split(",")) if args.phases else PHASES
    if not set(phase_names) <= set(PHASES):
        raise UserError(f"--phases must be some of {','.join(PHASES)}; got {args.phases!r}")

    config, _, _ = parse_command_line(
        ["plan", f"--config={args.config}", *(f"--{change}" for change in args.changes)]
    )
    flags.FLAGS.mark_as_parsed()
    slice_ = open_slice(args.topology)

    # One plan, or one per mesh.
    if args.search:
        reports = search.search_meshes(config, slice_, _log)
        print(format_ranking(reports))
        print()
        best = reports[0]
    else:
        best = search.plan_config(config, slice_, _log, phase_names, args.hlo)

    # The plan for people, and for tools.
    print(format_plan(best.plan, best.advice))
    if args.json is not None:
        write_json(args.json, search.report_to_json(best))
    return 0 if best.plan.fits else 1


def format_ranking(reports: Sequence[PlanReport]) -> str:
    """One line per plan of a search, the best first."""
    lines = [
        f"{'data':>6}{'fsdp':>6}{'tensor':>8}{'micro':>7}{'peak GiB':>10}{'images/s/chip':>15}"
    ]
    for report in reports:
        plan, mesh = report.plan, report.plan.mesh
        rate = f"{plan.images_per_second_per_chip:.3f}" if plan.fits else "does not fit"
        axes = f"{mesh['data']:6}{mesh['fsdp']:6}{mesh['tensor']:8}"
        lines.append(f"{axes}{report.step.microbatches:7}{plan.peak_gib:10.2f}{rate:>15}")
    return "\n".join(lines)


def format_plan(plan: Plan, advice: Sequence[str]) -> str:
    """A plan as text: memory by part, a table of phases, the verdict and the advice."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    lines = [f"{plan.slice_name}, mesh {mesh}, {plan.hbm_gib:.0f} GiB per device"]
    if plan.usable_gib < plan.hbm_gib:
        lines.append(f"JAX takes {plan.usable_gib:.1f} GiB of them for its pool")

    # Parts that this step does not have are left out, and so are its phases.
    lines.append("")
    for name, gib in plan.memory_parts.items():
        if gib:
            lines.append(f"{name.replace('_', ' '):20}{gib:9.2f} GiB")

    header = (
        f"{'phase':15}{'peak GiB':>9}{'temp':>7}{'TFLOP':>9}{'GB':>9}{'links GB':>10}{'seconds':>9}"
    )
    lines += ["", f"{header}  bound by"]
    lines += [_format_phase(name, phase) for name, phase in plan.phases.items() if phase.peak_gib]

    # What the compiler made of the two loops that cost the most.
    lines.append("")
    if plan.decode is not None:
        lines.append(
            f"an image token moves {plan.decode.bytes_over_minimum:.2f} times the least bytes, "
            f"{plan.decode.copy_bytes_over_minimum:.2f} of them for copies; "
            f"temporary memory is {100 * plan.decode.temp_over_resident:.0f} % of weights and "
            f"cache; copies of a cache: {plan.decode.cache_copies}"
        )
    if plan.update_collectives_over_minimum is not None:
        lines.append(
            f"the update sends {plan.update_collectives_over_minimum:.2f} times the least bytes"
        )

    verdict = "fits" if plan.fits else "DOES NOT FIT"
    lines.append(
        f"{verdict}: {plan.peak_gib:.2f} of {plan.usable_gib:.1f} GiB; at best "
        f"{plan.images_per_second_per_chip:.3f} images/s per device"
    )
    return "\n".join([*lines, *(f"  {text}" for text in advice)])


def _format_phase(name: str, phase: Phase) -> str:
    """A row of the table of phases."""
    memory = f"{phase.peak_gib:9.2f}{phase.temp_gib:7.2f}"
    work = f"{phase.flops / 1e12:9.1f}{phase.bytes / 1e9:9.1f}{phase.collective_bytes / 1e9:10.2f}"
    seconds = f"{phase.roofline_seconds:9.3f}"
    return f"{name:15}{memory}{work}{seconds}  {phase.bound_by or phase.error}"


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
