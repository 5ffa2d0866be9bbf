"""What to change when a step does not fit, or is slower than it need be. In: a plan and its step; out: sentences.

Sizes that other settings would have are estimates; ``corl plan`` with the setting that is named tells.
"""

from __future__ import annotations

import math

from corl_jax.planner.chips import chips_in
from corl_jax.planner.memory import STATE
from corl_jax.planner.programs import Step
from corl_jax.planner.reward_programs import assumed
from corl_jax.planner.roofline import Plan

FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBE = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8")
SHAPES = {"v5e": FLAT, "v6e": FLAT, "v4": CUBE, "v5p": CUBE, "h100": ("1", "2", "4", "8")}
ROOM = 0.92
"""Share of the memory that an estimate may fill."""


def advise(plan: Plan, step: Step) -> list[str]:
    """One sentence per change, the most useful first, then what was assumed; none where nothing stands out."""
    if plan.fits:
        changes = _links(plan, step)
    else:
        changes = [
            *_placement(plan, step),
            *_held(plan, step),
            *_each_phase(plan, step),
            *_larger(plan),
        ]
    return [*changes, *assumed(step.stage)]


def _placement(plan: Plan, step: Step) -> list[str]:
    state = sum(plan.parts[name] for name in STATE)
    if plan.mesh["data"] > 1 and state > plan.hbm_gib / 3:
        whole = plan.mesh["data"] * plan.mesh["fsdp"]
        return [
            f"{state:.1f} GiB of parameters and moments lie on every chip: spread them, config.mesh.data=1 "
            f"config.mesh.fsdp={whole}"
        ]
    return []


def _held(plan: Plan, step: Step) -> list[str]:
    """Weights that are held wider, or on more chips, than they need be."""
    out, parts, lora, tensor = [], plan.parts, step.parts.lora, plan.mesh["tensor"]
    if lora.rank and lora.base_dtype == "float32":
        out.append(
            f"parameters: {parts['parameters']:.1f} GiB of a frozen base: config.lora.base_dtype=bfloat16"
        )
    copy, chips, most = (
        parts["rollout_parameters"],
        chips_in(plan.slice_name.partition(":")[2]),
        plan.hbm_gib / 3,
    )
    halves = math.ceil(math.log2(copy / most)) if copy > most else 0
    wanted = tensor * 2**halves
    if halves and chips % wanted == 0 and step.parts.cfg.decoder.kv_heads % wanted == 0:
        out.append(
            f"every chip samples with {copy:.1f} GiB of weights: split them, config.mesh.data=1 "
            f"config.mesh.fsdp={chips // wanted} config.mesh.tensor={wanted}"
        )
    return out


def _each_phase(plan: Plan, step: Step) -> list[str]:
    """For every phase that wants more than there is."""
    over = {
        name: phase.peak_gib for name, phase in plan.phases.items() if phase.peak_gib > plan.hbm_gib
    }
    out = []
    rollouts = [name for name in over if name.startswith("rollout")]
    if rollouts and step.stage.settings.rollout_cache == "same":
        most = max(over[name] for name in rollouts)
        out.append(f"{' and '.join(rollouts)}: {most:.1f} GiB: config.rl.rollout_cache=int8")
    if "update" in over:
        out += _micro(step, plan.mesh["data"] * plan.mesh["fsdp"], over["update"])
    return out


def _micro(step: Step, spread: int, needs: float) -> list[str]:
    out, settings = [], step.stage.settings
    rows = [n for n in (settings.pictures, settings.questions) if n]
    finer = [
        n
        for n in range(step.microbatches + 1, max(rows) + 1)
        if all(r % n == 0 and r * settings.group // n >= spread for r in rows)
    ]
    if finer:
        out.append(f"update: {needs:.1f} GiB: config.microbatches={finer[0]}")
    if step.remat != "full":
        out.append("update: config.model.remat=full keeps less for the backward pass")
    return out


def _larger(plan: Plan) -> list[str]:
    """The smallest slice of the same chip that should do: all but the sampler's copy is spread over its chips."""
    chip, _, shape = plan.slice_name.partition(":")
    fixed, peak = plan.parts["rollout_parameters"], plan.peak_gib
    count = chips_in(shape)
    for other in SHAPES[chip]:
        if (
            chips_in(other) > count
            and fixed + (peak - fixed) * count / chips_in(other) <= ROOM * plan.hbm_gib
        ):
            return [f"a larger slice: --topology={chip}:{other}"]
    return [f"chips with more memory than the {plan.hbm_gib:.0f} GiB of a {chip}"]


def _links(plan: Plan, step: Step) -> list[str]:
    if plan.phases["update"].bound_by == "links" and step.microbatches > 1:
        return [
            "the update waits for its links, since every micro-batch gathers the parameters: "
            f"try config.microbatches={step.microbatches // 2}"
        ]
    return []
