"""One plan, or the best of several meshes and micro-batches. In: a config and a slice; out: plans with advice."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from corl_jax.core.errors import UserError
from corl_jax.core.provenance import versions
from corl_jax.planner import memory
from corl_jax.planner.advice import ROOM, advise
from corl_jax.planner.chips import Slice
from corl_jax.planner.gpu_estimate import plan_by_formula
from corl_jax.planner.programs import Step, open_step
from corl_jax.planner.roofline import PHASES, Plan, make_plan


@dataclasses.dataclass(frozen=True)
class Planned:
    """A plan, what it was made of, and what to change."""

    plan: Plan
    step: Step
    advice: list[str]


def one(config: Mapping[str, Any], slice_: Slice, log: Callable[[str], None]) -> Planned:
    """The plan of a config as it is."""
    step = open_step(config, slice_.devices)
    plan = make_plan(step, slice_, log) if slice_.compiled else plan_by_formula(step, slice_)
    return Planned(plan, step, advise(plan, step))


def ranked(config: Mapping[str, Any], slice_: Slice, log: Callable[[str], None]) -> list[Planned]:
    """Plans of the meshes and micro-batches whose state leaves room, the fastest that fits first.

    Raises:
      UserError: none leaves room.
    """
    found = []
    for changed in candidates(config, slice_.count):
        mesh = changed["mesh"]
        name = f"fsdp {mesh['fsdp']} tensor {mesh['tensor']} microbatches {changed['microbatches']}"
        try:
            step = open_step(changed, slice_.devices)
        except UserError as error:
            log(f"{name}: {error}")
            continue
        held = memory.parts(step)
        if sum(held.values()) > ROOM * slice_.chip.hbm_gib:
            log(f"{name}: {sum(held.values()):.1f} GiB before any activation")
            continue
        log(name)
        found.append(one(changed, slice_, log))
    if not found:
        raise UserError(
            f"no mesh of {slice_.name} leaves room for this config; take a larger slice"
        )
    return sorted(
        found,
        key=lambda one: (
            not one.plan.fits,
            -one.plan.images_per_second_per_chip,
            one.plan.peak_gib,
        ),
    )


def candidates(config: Mapping[str, Any], count: int) -> Iterator[dict[str, Any]]:
    """The config with other meshes (``tensor`` 1, 2, 4) and micro-batches (each row of a batch on a device of its own
    at least)."""
    rl = config["rl"]
    rows = [n for n in (rl["pictures"], rl["questions"]) if n]
    for tensor in (1, 2, 4):
        spread = count // tensor
        if count % tensor:
            continue
        parts = [
            n
            for n in range(1, max(rows) + 1)
            if all(
                r % n == 0 and r * rl["group"] // n >= min(spread, math.gcd(*rows)) for r in rows
            )
        ]
        for microbatches in parts:
            mesh = {"data": 1, "fsdp": spread, "tensor": tensor}
            yield json.loads(json.dumps(config)) | {"mesh": mesh, "microbatches": microbatches}


def as_json(planned: Planned) -> dict[str, Any]:
    """The keys that tools rely on."""
    plan = planned.plan
    decode = plan.decode
    return {
        "fits": plan.fits,
        "topology": plan.slice_name,
        "mesh": dict(plan.mesh),
        "microbatches": planned.step.microbatches,
        "compiled": plan.compiled,
        "hbm_gib_per_chip": plan.hbm_gib,
        "peak_gib_per_chip": plan.peak_gib,
        "parts": dict(plan.parts),
        "phases": {name: dataclasses.asdict(plan.phases[name]) for name in PHASES},
        "decode_bytes_over_minimum": None if decode is None else decode.bytes_over_minimum,
        "decode_temp_over_resident": None if decode is None else decode.temp_over_resident,
        "decode_cache_copies_in_loop": None if decode is None else decode.cache_copies,
        "update_collectives_over_minimum": plan.update_collectives_over_minimum,
        "images_per_second_per_chip": plan.images_per_second_per_chip,
        "advice": planned.advice,
        "versions": versions(),
    }
