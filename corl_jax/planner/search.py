"""The plan of one config, or the best of several meshes and numbers of micro-batches."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from corl_jax.core.errors import UserError
from corl_jax.core.provenance import versions
from corl_jax.planner import memory
from corl_jax.planner.advice import advise
from corl_jax.planner.chips import Slice
from corl_jax.planner.fitting import MAX_MEMORY_SHARE, fitting_advice
from corl_jax.planner.programs import PHASES, PlannedStep, open_step
from corl_jax.planner.roofline import Plan, compile_plan

TENSOR_SIZES = (1, 2, 4)
"""Sizes of the mesh axis ``tensor`` that a search tries."""


@dataclasses.dataclass(frozen=True)
class PlanReport:
    """A plan, the step that it is of, and advice."""

    plan: Plan
    step: PlannedStep
    advice: list[str]


def plan_config(
    config: Mapping[str, Any],
    slice_: Slice,
    log: Callable[[str], None],
    phase_names: Collection[str] = PHASES,
    hlo_folder: Path | None = None,
) -> PlanReport:
    """The plan of a config as it is; see ``roofline.compile_plan``."""
    step = open_step(config, slice_.devices)
    plan = compile_plan(step, slice_, log, phase_names, hlo_folder)
    fitting = fitting_advice(config, slice_, plan, step)
    return PlanReport(plan, step, advise(plan, step, fitting))


def search_meshes(
    config: Mapping[str, Any], slice_: Slice, log: Callable[[str], None]
) -> list[PlanReport]:
    """Plans of ``candidate_configs``; those that fit come first, the fastest before the others.

    A candidate is skipped where its train state, weights and caches already fill the memory.

    Raises:
      UserError: all candidates are skipped.
    """
    reports = []
    for candidate in candidate_configs(config, slice_.count):
        mesh, microbatches = candidate["mesh"], candidate["microbatches"]
        label = f"fsdp {mesh['fsdp']} tensor {mesh['tensor']} microbatches {microbatches}"

        # A mesh whose axes do not divide the parameters is no candidate.
        try:
            step = open_step(candidate, slice_.devices)
        except UserError as error:
            log(f"{label}: {error}")
            continue

        # This needs no compiler, so it comes before compiling, which takes minutes.
        resident_gib = sum(memory.memory_parts(step).values())
        if resident_gib > MAX_MEMORY_SHARE * slice_.usable_gib:
            log(f"{label}: {resident_gib:.1f} GiB before any activation")
            continue
        log(label)
        reports.append(plan_config(candidate, slice_, log))

    if not reports:
        raise UserError(
            f"no mesh of {slice_.name} leaves memory for the activations of this config; choose a "
            "larger slice"
        )
    return sorted(reports, key=_rank)


def _rank(report: PlanReport) -> tuple[bool, float, float]:
    """Sort key: plans that fit first, then the fastest, then the smallest."""
    plan = report.plan
    return not plan.fits, -plan.images_per_second_per_chip, plan.peak_gib


def candidate_configs(config: Mapping[str, Any], chips: int) -> Iterator[dict[str, Any]]:
    """The config with other meshes and other numbers of micro-batches.

    Meshes have the ``tensor`` sizes of ``TENSOR_SIZES`` and shard everything else over ``fsdp``.
    Micro-batches divide the prompts, and have a sample for every device of ``fsdp`` or, where that
    is less, as many samples as the greatest common divisor of the prompts.
    """
    rollout = config["rl"]["rollout"]
    # Prompts of the tasks that are trained.
    prompt_counts = [
        count for count in (rollout["image_prompts"], rollout["text_prompts"]) if count
    ]

    for tensor in TENSOR_SIZES:
        if chips % tensor:
            continue

        # Everything that is not sharded over ``tensor`` is sharded over the other chips.
        fsdp = chips // tensor
        min_samples = min(fsdp, math.gcd(*prompt_counts))
        for microbatches in range(1, max(prompt_counts) + 1):
            if all(
                prompts % microbatches == 0
                and prompts * rollout["group_size"] // microbatches >= min_samples
                for prompts in prompt_counts
            ):
                mesh = {"data": 1, "fsdp": fsdp, "tensor": tensor}
                changed = json.loads(json.dumps(config))
                yield changed | {"mesh": mesh, "microbatches": microbatches}


def report_to_json(report: PlanReport) -> dict[str, Any]:
    """The file that ``corl plan --json`` writes; tools rely on its keys."""
    # These keys and the fields of ``Phase`` stay, whatever the code calls them.
    plan, decode = report.plan, report.plan.decode

    return {
        "fits": plan.fits,
        "topology": plan.slice_name,
        "mesh": dict(plan.mesh),
        "microbatches": report.step.microbatches,
        "compiled": True,
        "hbm_gib_per_chip": plan.hbm_gib,
        "usable_gib_per_chip": plan.usable_gib,
        "peak_gib_per_chip": plan.peak_gib,
        "parts": dict(plan.memory_parts),
        "phases": {name: dataclasses.asdict(plan.phases[name]) for name in PHASES},
        "decode_bytes_over_minimum": None if decode is None else decode.bytes_over_minimum,
        "decode_copy_bytes_over_minimum": (
            None if decode is None else decode.copy_bytes_over_minimum
        ),
        "decode_temp_over_resident": None if decode is None else decode.temp_over_resident,
        "decode_cache_copies_in_loop": None if decode is None else decode.cache_copies,
        "update_collectives_over_minimum": plan.update_collectives_over_minimum,
        "images_per_second_per_chip": plan.images_per_second_per_chip,
        "advice": report.advice,
        "versions": versions(),
    }
