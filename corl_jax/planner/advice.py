"""What to change in a config whose step does not fit, or is slower than it could be.

Sizes under other settings are estimates; ``corl plan`` with the suggested setting has the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from corl_jax.planner.chips import POOL_VARIABLES, chip_count
from corl_jax.planner.fitting import MAX_MEMORY_SHARE
from corl_jax.planner.gpu_targets import GPU_TARGETS
from corl_jax.planner.memory import TRAIN_STATE_PARTS
from corl_jax.planner.programs import PlannedStep
from corl_jax.planner.reward_programs import assumed_size_notes
from corl_jax.planner.roofline import Plan

FLAT_SHAPES = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBE_SHAPES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8")
GPU_SHAPES = ("1", "2", "4", "8", "2x8", "4x8", "8x8")
SLICE_SHAPES = {
    "v5e": ("1x1", *FLAT_SHAPES),
    "v6e": FLAT_SHAPES,
    "v4": CUBE_SHAPES,
    "v5p": CUBE_SHAPES,
    **dict.fromkeys(GPU_TARGETS, GPU_SHAPES),
}
"""Chip to the shapes of its slices, smallest first."""

MAX_POOL_SHARE = 0.95
"""Share of a GPU's memory that JAX's pool may have; CUDA and cuDNN need the rest."""


def advise(plan: Plan, step: PlannedStep, fitting: Sequence[str] = ()) -> list[str]:
    """One sentence per change, the most useful first, then one per size that was assumed.

    There are no changes where the plan fits and nothing stands out.

    Args:
      plan: of the step.
      step: as it was planned.
      fitting: ``fitting.fitting_advice``; it takes the place of single changes to the config.
    """
    if plan.fits:
        changes = _advise_microbatches(plan, step)
    else:
        singles = [*_advise_weights(plan, step), *_advise_phases(plan, step)]
        changes = [
            *fitting,
            *_advise_pool(plan),
            *_advise_mesh(plan),
            *([] if fitting else singles),
            *_advise_slice(plan),
        ]
    return [*changes, *assumed_size_notes(step.stage)]


def _advise_pool(plan: Plan) -> list[str]:
    """A larger pool for JAX on a GPU, of which it leaves a quarter by default."""
    max_gib = MAX_POOL_SHARE * plan.hbm_gib
    if plan.usable_gib >= max_gib:
        return []
    verdict = "fits" if plan.peak_gib <= max_gib else "is still too little"
    return [
        f"JAX takes {plan.usable_gib:.1f} of {plan.hbm_gib:.1f} GiB: set {POOL_VARIABLES[0]}="
        f"{MAX_POOL_SHARE} for the run (and for the plan), which is {max_gib:.1f} GiB and {verdict}"
    ]


def _advise_mesh(plan: Plan) -> list[str]:
    """Shard the train state over the ``data`` axis too, where its replicas take a third or more."""
    # The train state is sharded over ``fsdp`` alone; ``data`` repeats it.
    state_gib = sum(plan.memory_parts[name] for name in TRAIN_STATE_PARTS)
    if plan.mesh["data"] > 1 and state_gib > plan.usable_gib / 3:
        fsdp = plan.mesh["data"] * plan.mesh["fsdp"]
        return [
            f"{state_gib:.1f} GiB of parameters and moments are on every chip: shard them, "
            f"config.mesh.data=1 config.mesh.fsdp={fsdp}"
        ]
    return []


def _advise_weights(plan: Plan, step: PlannedStep) -> list[str]:
    """Narrower weights below adapters, and weights for sampling that are sharded further."""
    advice, parts, lora = [], plan.memory_parts, step.setup.lora

    # A frozen base in bfloat16 takes half the memory.
    if lora.rank and lora.base_dtype == "float32":
        advice.append(
            f"parameters: {parts['parameters']:.1f} GiB, most of them a frozen base: "
            "config.lora.base_dtype=bfloat16"
        )

    # Double the tensor axis until the copy takes a third of the memory, if chips and heads divide.
    copy_gib, max_gib = parts["rollout_parameters"], plan.usable_gib / 3
    chips = chip_count(plan.slice_name.partition(":")[2])
    doublings = math.ceil(math.log2(copy_gib / max_gib)) if copy_gib > max_gib else 0
    tensor = plan.mesh["tensor"] * 2**doublings
    divides = chips % tensor == 0 and step.setup.cfg.decoder.kv_heads % tensor == 0
    if doublings and divides:
        advice.append(
            f"every chip samples with {copy_gib:.1f} GiB of weights: shard them, "
            f"config.mesh.data=1 config.mesh.fsdp={chips // tensor} config.mesh.tensor={tensor}"
        )
    return advice


def _advise_phases(plan: Plan, step: PlannedStep) -> list[str]:
    """For the phases that need more memory than there is."""
    too_large = {
        name: phase.peak_gib
        for name, phase in plan.phases.items()
        if phase.peak_gib > plan.usable_gib
    }
    advice = []

    # One change serves both rollouts: a smaller KV cache.
    rollouts = [name for name in too_large if name.startswith("rollout")]
    if rollouts and step.stage.cfg.rollout.cache_dtype == "same":
        peak_gib = max(too_large[name] for name in rollouts)
        advice.append(
            f"{' and '.join(rollouts)}: {peak_gib:.1f} GiB: config.rl.rollout.cache_dtype=int8"
        )

    # An update has the activations of one micro-batch at a time.
    if "update" in too_large:
        batch_shards = plan.mesh["data"] * plan.mesh["fsdp"]
        advice += _advise_update(step, batch_shards, too_large["update"])
    return advice


def _advise_update(step: PlannedStep, batch_shards: int, peak_gib: float) -> list[str]:
    """More micro-batches, and full remat."""
    advice, rollout_cfg = [], step.stage.cfg.rollout

    # The next number of micro-batches that divides the prompts and leaves every chip a sample.
    prompt_counts = list(rollout_cfg.prompts.values())
    more_microbatches = [
        count
        for count in range(step.microbatches + 1, max(prompt_counts) + 1)
        if all(
            prompts % count == 0 and prompts * rollout_cfg.group_size // count >= batch_shards
            for prompts in prompt_counts
        )
    ]
    if more_microbatches:
        advice.append(f"update: {peak_gib:.1f} GiB: config.microbatches={more_microbatches[0]}")

    # Full remat keeps one state per token and layer.
    if step.remat != "full":
        advice.append("update: config.model.remat=full keeps less for the backward pass")
    return advice


def _advise_slice(plan: Plan) -> list[str]:
    """The smallest slice of the same chip that should be large enough.

    More chips share everything but the weights for sampling, of which each has a copy.
    """
    chip_name, _, shape = plan.slice_name.partition(":")
    copy_gib, chips = plan.memory_parts["rollout_parameters"], chip_count(shape)
    for larger_shape in SLICE_SHAPES[chip_name]:
        # Everything but the copy is spread over the larger number of chips.
        larger_chips = chip_count(larger_shape)
        peak_gib = copy_gib + (plan.peak_gib - copy_gib) * chips / larger_chips
        if larger_chips > chips and peak_gib <= MAX_MEMORY_SHARE * plan.usable_gib:
            return [f"a larger slice: --topology={chip_name}:{larger_shape}"]
    return [f"chips with more memory than the {plan.hbm_gib:.0f} GiB of a {chip_name}"]


def _advise_microbatches(plan: Plan, step: PlannedStep) -> list[str]:
    """Fewer micro-batches for an update that waits for its links."""
    if plan.phases["update"].bound_by == "links" and step.microbatches > 1:
        return [
            "the update waits for its links, since every micro-batch gathers the parameters: "
            f"try config.microbatches={step.microbatches // 2}"
        ]
    return []
