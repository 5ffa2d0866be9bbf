"""The largest batch that fits, by estimates from a plan that does not.

What stays on the chip is that of the changed step. Temporary memory is taken from the plan: caches go
with the prompts, and activations with the samples of a micro-batch. A plan of the changed config has
the numbers.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from corl_jax.core.errors import UserError
from corl_jax.planner import memory
from corl_jax.planner.chips import Slice
from corl_jax.planner.programs import PlannedStep, open_step
from corl_jax.planner.roofline import Plan

MAX_MEMORY_SHARE = 0.92
"""Share of the memory that JAX may take which an estimate may fill."""

ADAPTERS = {"lora.rank": 32, "lora.base_dtype": "bfloat16"}
"""What trains adapters where the state of full fine-tuning has no room; see docs/lora.md."""

NARROW_BASE = {"lora.base_dtype": "bfloat16"}
"""Half of the memory of a frozen base."""


@dataclasses.dataclass(frozen=True)
class Batch:
    """Size of a step.

    Attributes:
      prompts: task to its prompts.
      microbatches: of the update.
      share: of the prompts of the plan.
    """

    prompts: Mapping[str, int]
    microbatches: int
    share: float


def fitting_advice(
    config: Mapping[str, Any], slice_: Slice, plan: Plan, step: PlannedStep
) -> list[str]:
    """One line with all changes that together should fit; none where nothing does, or all does."""
    if plan.fits:
        return []
    changes = _fitting_changes(config, slice_, plan, step)
    if not changes:
        return []
    return [
        "this should fit: " + " ".join(f"config.{key}={value}" for key, value in changes.items())
    ]


def changed_config(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A config with other values, by the paths of their keys."""
    changed: dict[str, Any] = json.loads(json.dumps(config))
    for path, value in changes.items():
        *blocks, key = path.split(".")
        block = changed
        for name in blocks:
            block = block[name]
        block[key] = value
    return changed


def _fitting_changes(
    config: Mapping[str, Any], slice_: Slice, plan: Plan, step: PlannedStep
) -> dict[str, Any]:
    """The changes that cost the least: micro-batches first, then a narrow base, then prompts, and
    adapters last. {} for none."""
    lora = step.setup.lora

    # Full fine-tuning has no base that could be narrower, and adapters are another training.
    if not lora.rank:
        families: list[list[dict[str, Any]]] = [[{}], [ADAPTERS]]
    else:
        families = [[{}] if lora.base_dtype == "bfloat16" else [{}, NARROW_BASE]]

    for family in families:
        # What stays on the chip has to be computed once for every choice of weights.
        steps = []
        for weights in family:
            try:
                steps.append((weights, open_step(changed_config(config, weights), slice_.devices)))
            except UserError:  # such as a config whose other rules want full fine-tuning
                continue
        for batches in _batches(step, plan.mesh["data"] * plan.mesh["fsdp"]):
            for weights, changed_step in steps:
                for batch in batches:
                    peak_gib = _peak_gib(plan, step, changed_step, batch)
                    if peak_gib <= MAX_MEMORY_SHARE * plan.usable_gib:
                        return weights | _batch_changes(step, batch)
    return {}


def _batches(step: PlannedStep, batch_shards: int) -> Iterator[list[Batch]]:
    """Batches with all prompts, with half of them and so on; each with few micro-batches first.

    Micro-batches divide the prompts, and leave every device a sample.
    """
    share, prompts = 1.0, dict(step.stage.cfg.rollout.prompts)
    while True:
        yield [
            Batch(prompts, count, share)
            for count in range(1, min(prompts.values()) + 1)
            if math.gcd(count, *prompts.values()) == count
            and min(prompts.values()) * step.stage.cfg.rollout.group_size // count >= batch_shards
            # Fewer micro-batches than the config has are no way to save memory.
            and (count >= step.microbatches or count == math.gcd(*prompts.values()))
        ]
        if any(count % 2 for count in prompts.values()):
            return
        share, prompts = share / 2, {task: count // 2 for task, count in prompts.items()}


def _batch_changes(step: PlannedStep, batch: Batch) -> dict[str, int]:
    """Keys of the config that differ."""
    changes = {}
    if batch.microbatches != step.microbatches:
        changes["microbatches"] = batch.microbatches
    if batch.share < 1:
        changes |= {f"rl.rollout.{task}_prompts": count for task, count in batch.prompts.items()}
    return changes


def _peak_gib(plan: Plan, step: PlannedStep, changed_step: PlannedStep, batch: Batch) -> float:
    """Memory of the largest phase that was compiled, with other weights and another batch."""
    old_parts, parts = memory.memory_parts(step), memory.memory_parts(changed_step)
    peaks = []
    for name, phase in plan.phases.items():
        if not phase.peak_gib:
            continue
        # Results, such as pictures, are one for each sample.
        results_gib = phase.peak_gib - memory.resident_gib(old_parts, name) - phase.temp_gib
        peaks.append(
            memory.resident_gib(parts, name)
            + results_gib * batch.share
            + _temp_gib(name, phase.temp_gib, step, changed_step, batch)
        )
    return max(peaks)


def _temp_gib(
    name: str, old_gib: float, step: PlannedStep, changed_step: PlannedStep, batch: Batch
) -> float:
    """Temporary memory of a phase whose programs had ``old_gib`` in the plan."""
    # A call of a reward model has as many rows whatever the batch is.
    if name == "rewards":
        return old_gib

    # Gradients go with what is trained, and activations with the samples of a micro-batch.
    if name == "update":
        gradients_gib = memory.gib_per_chip(step.state.trainable)
        share = batch.share * step.microbatches / batch.microbatches
        changed_gib = memory.gib_per_chip(changed_step.state.trainable)
        return changed_gib + max(old_gib - gradients_gib, 0.0) * share

    # Caches go with the prompts; beside them a program may have its weights in another layout.
    caches_gib = {
        "rollout_image": memory.image_cache_size(step).total_gib,
        "rollout_text": memory.text_cache_gib(step),
    }
    rest_gib = max(old_gib - caches_gib.get(name, 0.0), 0.0)
    weights_gib = min(rest_gib, memory.decode_weights_gib(step))
    return weights_gib + (old_gib - weights_gib) * batch.share
