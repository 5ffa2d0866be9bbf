"""A plan without a compiler, for GPUs: FLOPs from the traced programs, memory and bytes by formula.

Bytes: a decode step reads the weights and the KV cache, of an image as far as it is filled and of a
text all of it. A pass over complete sequences reads the weights, and reads or writes the
activations of every layer ``ACTIVATION_ACCESSES`` times. Activations in memory: one state per token
and layer under full remat, else all of a layer's; and the logits of one chunk.
"""

from __future__ import annotations

import dataclasses

from corl_jax.planner import flops, memory
from corl_jax.planner.calls import GIB
from corl_jax.planner.chips import Slice
from corl_jax.planner.programs import PHASES, PlannedStep
from corl_jax.planner.roofline import Phase, Plan, image_rate, roofline

ACTIVATION_ACCESSES = 12
"""Reads and writes of a state ``[N, L, D]`` in one layer, forward."""


@dataclasses.dataclass(frozen=True)
class ActivationSizes:
    """GiB per chip of activations in a step.

    Attributes:
      states: one state per token of all sequences, the unconditional ones included.
      logits: of one chunk of a micro-batch, with what their gradient needs.
    """

    states: float
    logits: float


def estimate_plan(step: PlannedStep, slice_: Slice) -> Plan:
    """The plan of ``step`` on ``slice_``, by formula."""
    parts = memory.memory_parts(step)
    resident_gib = sum(parts[part] for part in memory.TRAIN_STATE_PARTS) + parts["reward_models"]

    # Bytes and temporary memory of every phase, by formula.
    calls = step.phases()
    sizes = _activation_sizes(step)
    hbm_gib = _hbm_gib(step, sizes, parts["reward_models"], len(calls["rewards"]))
    temp_gib = _temp_gib(step, sizes)

    phases = {}
    for name in PHASES:
        if not calls[name]:
            phases[name] = Phase()
            continue

        # FLOPs are the program's own, of all devices together.
        phase_flops = sum(
            call.times * flops.jaxpr_flops(step.trace(call).jaxpr.jaxpr) for call in calls[name]
        )
        flops_per_chip = phase_flops / slice_.count

        # The update runs without the weights for sampling, and only it sends anything.
        is_update = name == "update"
        copy_gib = 0.0 if is_update else parts["rollout_parameters"]
        link_bytes = memory.min_update_link_bytes(step) if is_update else 0.0
        hbm_bytes = hbm_gib[name] * GIB
        seconds, bound_by = roofline(slice_.chip, flops_per_chip, hbm_bytes, link_bytes)
        phases[name] = Phase(
            peak_gib=resident_gib + copy_gib + temp_gib[name],
            temp_gib=temp_gib[name],
            flops=flops_per_chip,
            bytes=hbm_bytes,
            collective_bytes=link_bytes,
            roofline_seconds=seconds,
            bound_by=bound_by,
        )

    parts["activations"] = temp_gib["update"]
    return Plan(
        slice_name=slice_.name,
        mesh=dict(step.setup.sharder.mesh.shape),
        hbm_gib=slice_.chip.hbm_gib,
        memory_parts=parts,
        phases=phases,
        decode=None,
        update_collectives_over_minimum=None,
        images_per_second_per_chip=image_rate(step, phases, slice_.count),
        compiled=False,
    )


def _completion_lengths(step: PlannedStep) -> dict[str, int]:
    """Task to the largest number of tokens of a completion."""
    return {
        "image": step.setup.cfg.image_tokens,
        "text": step.stage.cfg.rollout.completion_length,
    }


def _activation_sizes(step: PlannedStep) -> ActivationSizes:
    """Sizes of the activations of a step."""
    cfg, model_cfg = step.stage.cfg, step.setup.cfg
    rollout_cfg, shards = cfg.rollout, step.setup.sharder.batch_shards
    lengths = _completion_lengths(step)

    # A prompt and its completion, both at their largest length.
    sequence_lengths = {
        "image": rollout_cfg.image_prompt_length + lengths["image"],
        "text": rollout_cfg.text_prompt_length + lengths["text"],
    }

    # With guidance, every image has a row with its prompt and a row with the unconditional one.
    guidance_rows = 2 if rollout_cfg.uses_guidance else 1
    rows = {
        "image": rollout_cfg.image_prompts * rollout_cfg.group_size * guidance_rows,
        "text": rollout_cfg.text_prompts * rollout_cfg.group_size,
    }

    # Only the tasks that are trained have sequences.
    tokens = sum(rows[task] * sequence_lengths[task] for task in cfg.tasks)
    states = tokens * model_cfg.decoder.width * step.compute_dtype.itemsize / shards / GIB

    # Logits of one chunk of positions of one micro-batch: three float32 arrays, with the larger of
    # the two heads.
    chunk_length = cfg.log_probs.chunk_length or max(lengths.values())
    classes = max(model_cfg.image_vocab_size, model_cfg.text_vocab_size)
    logits = 3 * 4 * max(rows.values()) / step.microbatches * chunk_length * classes / shards / GIB
    return ActivationSizes(states, logits)


def _hbm_gib(
    step: PlannedStep, sizes: ActivationSizes, reward_models_gib: float, reward_programs: int
) -> dict[str, float]:
    """Phase to the GiB that it reads and writes in main memory."""
    weights_gib, lengths = memory.decode_weights_gib(step), _completion_lengths(step)
    image_cache_gib = memory.image_cache_size(step).read_gib
    text_cache_gib = memory.text_cache_gib(step)

    # The activations of one forward pass over all sequences. An update counts as four such passes,
    # and the rewards as half of one.
    pass_gib = ACTIVATION_ACCESSES * step.setup.cfg.decoder.depth * sizes.states
    return {
        "rollout_image": lengths["image"] * (weights_gib + image_cache_gib),
        "rollout_text": lengths["text"] * (weights_gib + text_cache_gib),
        "log_probs": weights_gib + pass_gib,
        "update": 3 * step.microbatches * weights_gib + 4 * pass_gib,
        "rewards": reward_programs * (weights_gib + reward_models_gib) + pass_gib / 2,
    }


def _temp_gib(step: PlannedStep, sizes: ActivationSizes) -> dict[str, float]:
    """Phase to its temporary memory."""
    # Of each layer, the update keeps the input under full remat, else all activations.
    depth, microbatches = step.setup.cfg.decoder.depth, step.microbatches
    states_per_layer = 1 if step.remat == "full" else ACTIVATION_ACCESSES
    saved_gib = depth * sizes.states / microbatches * states_per_layer
    layer_gib = ACTIVATION_ACCESSES * sizes.states
    gradient_gib = memory.gib_per_chip(step.state.trainable)
    return {
        "rollout_image": memory.image_cache_size(step).total_gib,
        "rollout_text": memory.text_cache_gib(step),
        "log_probs": sizes.logits + layer_gib,
        "update": saved_gib + layer_gib / microbatches + sizes.logits + gradient_gib,
        "rewards": layer_gib / 2,
    }
