"""Advice that is followed leads to a plan that fits; loops of layers one by one count like scans."""

from __future__ import annotations

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest

from corl_jax.planner import fitting, memory
from corl_jax.planner.advice import advise
from corl_jax.planner.chips import CHIPS, Slice
from corl_jax.planner.decode_loop import _token_loops
from corl_jax.planner.fitting import changed_config, fitting_advice
from corl_jax.planner.hlo import module as hlo
from corl_jax.planner.hlo import moved_bytes
from corl_jax.planner.programs import open_step
from corl_jax.planner.roofline import compile_plan

PHASES = ("rollout_image",)
N = 128


def cpu_slice(usable_gib=16.0):
    return Slice("v5e:1x1", CHIPS["v5e"], 1, jax.devices()[:1], usable_gib)


@pytest.fixture(scope="module")
def config(small_config):
    """The embedded world on one device, with prompts to spare."""
    changes = {"model.compute_dtype": "float32", "model.unroll": 1}
    prompts = {"rl.rollout.image_prompts": 8, "rl.rollout.text_prompts": 8}
    return small_config("unified", steps=1, **changes, **prompts)


@pytest.fixture(scope="module")
def step(config):
    return open_step(config, jax.devices()[:1])


@pytest.fixture(scope="module")
def plan(step):
    return compile_plan(step, cpu_slice(), phase_names=PHASES)


def advised_changes(lines):
    """The changes that the first line of advice names, by key."""
    assert lines and lines[0].startswith("this should fit: ")
    pairs = re.findall(r"config\.(\S+)=(\S+)", lines[0])
    return {key: int(value) if value.isdecimal() else value for key, value in pairs}


def test_advice_that_is_followed_fits(config, plan, step):
    """The plan of the advised changes, compiled, is below the memory that the first one exceeds."""
    # Room for what stays on the device, and for three fifths of the rest.
    resident_gib = memory.resident_gib(memory.memory_parts(step), "rollout_image")
    limit_gib = resident_gib + 0.6 * (plan.peak_gib - resident_gib)
    limit_gib /= fitting.MAX_MEMORY_SHARE
    small = dataclasses.replace(plan, usable_gib=limit_gib)
    assert not small.fits
    lines = fitting_advice(config, cpu_slice(limit_gib), small, step)
    changes = advised_changes(lines)
    assert changes["rl.rollout.image_prompts"] == changes["rl.rollout.text_prompts"] == 4
    changed_step = open_step(changed_config(config, changes), jax.devices()[:1])
    assert compile_plan(changed_step, cpu_slice(limit_gib), phase_names=PHASES).fits

    # Single changes, which alone would not do, are not printed beside it.
    advice = advise(small, step, lines)
    assert advice[0] == lines[0] and not any("int8" in text for text in advice)
    assert any("int8" in text for text in advise(small, step))


def with_memory(plan, temp_gib, usable_gib, names=PHASES):
    """A plan whose phases have this temporary memory and nothing else of any size."""
    phases = {
        name: dataclasses.replace(phase, temp_gib=temp_gib, peak_gib=temp_gib)
        for name, phase in plan.phases.items()
        if name in names
    }
    return dataclasses.replace(plan, phases=phases, usable_gib=usable_gib)


def test_changes_that_cost_least_come_first(config, plan, step):
    # An update alone has more micro-batches, as many as it needs, and keeps its prompts.
    update = with_memory(plan, 4.0, usable_gib=2.5, names=("update",))
    assert advised_changes(fitting_advice(config, cpu_slice(), update, step)) == {"microbatches": 2}

    # Rollouts have fewer prompts, of both tasks alike.
    rollout = with_memory(plan, 4.0, usable_gib=1.3, names=("rollout_image",))
    assert advised_changes(fitting_advice(config, cpu_slice(), rollout, step)) == {
        "rl.rollout.image_prompts": 2,
        "rl.rollout.text_prompts": 2,
    }

    # Nothing is advised where one prompt is too much, nor where all fits.
    for usable_gib in (0.1, 16.0):
        tight = with_memory(plan, 4.0, usable_gib)
        assert fitting_advice(config, cpu_slice(), tight, step) == []


def test_a_frozen_base_is_made_narrow_before_prompts_are_fewer(config, plan, monkeypatch):
    monkeypatch.setattr(fitting, "MAX_MEMORY_SHARE", 1.0)
    # With a base in the dtype of sampling, sampling needs no copy of what has no adapters.
    changed = changed_config(config, {"lora.rank": 4, "model.compute_dtype": "bfloat16"})
    narrow = changed_config(changed, {"lora.base_dtype": "bfloat16"})
    adapters, narrow_step = (open_step(values, jax.devices()[:1]) for values in (changed, narrow))
    before_gib, after_gib = (
        memory.resident_gib(memory.memory_parts(which), "rewards")
        for which in (adapters, narrow_step)
    )
    assert after_gib < before_gib

    # Nothing but weights is on the chip, and half of what a narrow base saves is missing.
    phase = dataclasses.replace(plan.phases["rewards"], temp_gib=0.0, peak_gib=before_gib)
    usable_gib = (before_gib + after_gib) / 2
    tight = dataclasses.replace(plan, phases={"rewards": phase}, usable_gib=usable_gib)
    assert advised_changes(fitting_advice(changed, cpu_slice(), tight, adapters)) == {
        "lora.base_dtype": "bfloat16"
    }


def test_layers_one_by_one_are_counted_like_a_scan(config, plan):
    """The same tokens in both forms: bytes near the least, and no copy of a cache."""
    separate = open_step(changed_config(config, {"model.unroll": 64}), jax.devices()[:1])
    decode = compile_plan(separate, cpu_slice(), phase_names=("rollout_image",)).decode
    assert decode.cache_copies == 0 and plan.decode.cache_copies == 0
    assert 0.9 < decode.bytes_over_minimum <= plan.decode.bytes_over_minimum


def parse(function, *shapes):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return hlo.parse(jax.jit(function).lower(*arrays).compile().as_text())


def test_the_loop_over_tokens_is_the_one_that_carries_the_weights():
    """Layers one by one in it; the loop after it has a loop inside, and no weights."""

    def decode(first, second, x):
        tokens = jax.lax.fori_loop(0, 7, lambda i, x: jnp.tanh(jnp.tanh(x @ first) @ second), x)

        def pixels(i, x):
            return jax.lax.fori_loop(0, 3, lambda j, x: jnp.sin(x) + jnp.cumsum(x), x)

        return jax.lax.fori_loop(0, 5, pixels, tokens[0])

    module = parse(decode, (N, N), (N, N), (8, N))
    weights_bytes = 2 * N * N * 4
    ((body, turns),) = _token_loops(module, 0.4 * weights_bytes)
    assert turns == 7
    body_bytes = moved_bytes.computation_traffic(module, body).hbm_bytes
    assert weights_bytes <= body_bytes < 1.5 * weights_bytes


def test_a_loop_over_layers_that_reads_prompts_is_none_over_tokens():
    """It carries the weights as well, and moves as much in a turn where prompts are long."""

    def decode(stack, x, prompts):
        states, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), prompts, stack)
        layers = [stack[i] for i in range(4)]

        def token(i, x):
            for layer in layers:
                x = jnp.tanh(x @ layer)
            return x

        return jax.lax.fori_loop(0, 7, token, x + states[:8])

    module = parse(decode, (4, N, N), (8, N), (32 * N, N))
    loops = list(moved_bytes.loops(module))
    assert sorted(turns for *_, turns in loops) == [4, 7]
    assert all(loop.result_bytes >= 4 * N * N * 4 for loop, *_ in loops)
    assert [turns for _, turns in _token_loops(module, 0.4 * 4 * N * N * 4)] == [7]


def test_copies_in_a_called_computation_are_counted():
    """GPUs gather kernels of a loop in one computation, which the loop calls."""
    text = """HloModule m

%body.1 (c: f32[1024]) -> f32[1024] {
  %c = f32[1024]{0} parameter(0)
  ROOT %copy.1 = f32[1024]{0} copy(%c)
}

ENTRY %main (p: f32[1024]) -> f32[1024] {
  %p = f32[1024]{0} parameter(0)
  ROOT %call.1 = f32[1024]{0} call(%p), to_apply=%body.1
}
"""
    module = hlo.parse(text)
    assert moved_bytes.count_copies(module, module.entry, 4096) == 1
    assert moved_bytes.count_copies(module, module.entry, 4097) == 0
