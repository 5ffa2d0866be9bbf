"""A plan without a compiler, for GPUs. In: an abstract step and a slice. Out: a ``Plan`` that says so.

Arithmetic is the programs' own. Bytes: a decoding step reads the weights and of pictures the filled cache, of texts all
of it; a pass over whole sequences reads the weights and moves every block's activations a dozen times. Activations: one
state per token and layer under full remat, all of a block's otherwise, and the logits of one chunk.
"""

from __future__ import annotations

from corl_jax.planner import flops, memory
from corl_jax.planner.chips import Slice
from corl_jax.planner.programs import PHASES, Step
from corl_jax.planner.roofline import Phase, Plan, bound

GIB = 2**30
MOVES = 12
"""Reads and writes of an activation in one block, forward."""


def plan_by_formula(step: Step, slice_: Slice) -> Plan:
    """All phases of ``step`` on ``slice_``."""
    held = memory.parts(step)
    state = sum(held[part] for part in memory.STATE) + held["reward_models"]
    s, d = step.stage.settings, step.parts.cfg.decoder
    cache, weights = memory.image_cache(step), memory.decoding_weights(step)
    tokens = {"image": step.parts.cfg.image_tokens, "text": s.completion_length}
    lengths = {
        "image": s.image_prompt_length + tokens["image"],
        "text": s.text_prompt_length + tokens["text"],
    }
    rows = {
        "image": s.pictures * s.group * (2 if s.guided_sampler else 1),
        "text": s.questions * s.group,
    }
    spread = step.parts.sharder.batch_shards
    states = (
        sum(rows[task] * lengths[task] for task in s.asked)
        * d.width
        * step.compute_dtype.itemsize
        / spread
        / GIB
    )
    chunk = s.score_chunk or max(tokens.values())
    head = max(step.parts.cfg.image_tokenizer.codebook_size, d.vocab_size)
    logits = 3 * 4 * max(rows.values()) / step.microbatches * chunk * head / spread / GIB
    kept = d.depth * states / step.microbatches * (1 if step.remat == "full" else MOVES)
    calls, phases = step.phases(), {}
    read = {
        "rollout_image": tokens["image"] * (weights + cache.read_gib),
        "rollout_text": tokens["text"] * (weights + memory.text_cache(step)),
        "score": weights + MOVES * d.depth * states,
        "update": 3 * step.microbatches * weights + 4 * MOVES * d.depth * states,
        "rewards": len(calls["rewards"]) * (weights + held["reward_models"])
        + MOVES * d.depth * states / 2,
    }
    temp = {
        "rollout_image": cache.total_gib,
        "rollout_text": memory.text_cache(step),
        "score": logits + MOVES * states,
        "update": kept
        + MOVES * states / step.microbatches
        + logits
        + memory.on_chip(step.state.trainable),
        "rewards": MOVES * states / 2,
    }
    for name in PHASES:
        work = (
            sum(one.times * flops.of_jaxpr(step.trace(one).jaxpr.jaxpr) for one in calls[name])
            / slice_.count
        )
        if not calls[name]:
            phases[name] = Phase()
            continue
        copy = 0.0 if name == "update" else held["rollout_parameters"]
        sent = memory.update_collectives(step) if name == "update" else 0.0
        seconds, slowest = bound(slice_.chip, work, read[name] * GIB, sent)
        peak = state + copy + temp[name]
        phases[name] = Phase(peak, temp[name], work, read[name] * GIB, sent, {}, seconds, slowest)
    held["activations"] = temp["update"]
    seconds = sum(phase.roofline_seconds for phase in phases.values())
    rate = s.pictures * s.group / seconds / slice_.count if seconds else 0.0
    mesh = dict(step.parts.sharder.mesh.shape)
    return Plan(slice_.name, mesh, slice_.chip.hbm_gib, held, phases, None, None, rate, False)
