"""Fewer prompts than devices: each device reads the prompts of its own samples, and nothing comes out differently."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corl_jax.core.rng import sample_keys, stream
from corl_jax.core.sharding import Sharder, copies, make_mesh, use
from corl_jax.core.types import Prompts
from corl_jax.data.text import left_pad
from corl_jax.sampling.layout import dealt

ROWS, GROUP, LENGTH = 2, 8, 6
CAPTIONS = ("a red circle", "two blue squares and a green triangle")


@pytest.fixture(scope="module")
def sharder():
    return Sharder(make_mesh({"data": 2, "fsdp": 4}))


def test_samples_are_dealt_to_copies_of_their_prompt(sharder):
    assert copies(3, 8) == 1
    with use(sharder):
        assert [copies(*shape) for shape in ((2, 8), (4, 2), (8, 1), (16, 3), (3, 8), (2, 6))] == [4, 2, 1, 1, 8, 1]
        prompts = Prompts(jnp.arange(2)[:, None], jnp.ones((2, 1), bool))
        repeated, samples = dealt(prompts, 8)
        assert samples == 2 and repeated.images is None
        np.testing.assert_array_equal(repeated.tokens[:, 0], [0, 0, 0, 0, 1, 1, 1, 1])


@pytest.mark.parametrize("shared_prefix", [False, True])
def test_eight_devices_write_and_score_two_prompts_as_one_does(tiny_policy, sharder, shared_prefix):
    tokenizer, params = tiny_policy.tokenizer, jax.device_put(tiny_policy.params, sharder.named())
    prompts = Prompts(*left_pad([tokenizer.drawing_prompt(text) for text in CAPTIONS], tokenizer.pad_id))
    keys = sample_keys(stream(0, "dealt", 0), ROWS * GROUP).reshape(ROWS, GROUP)
    sampler = tiny_policy.sampler

    def run(params, prompts):
        rollout = sampler.write(params, prompts, keys, sampler.sampling("text"), LENGTH)
        pictures = dataclasses.replace(rollout, tokens=rollout.tokens % 64, modality="image")
        how = {"shared_prefix": shared_prefix, "guided": True}
        return rollout, sampler.log_probs(params, prompts, pictures, sampler.sampling("image", guidance=2.0), **how)

    alone, scored = run(tiny_policy.params, prompts)
    jax.clear_caches()  # programs are kept by shape, and do not know for how many devices they were traced
    with use(sharder):
        program = jax.jit(run).lower(params, prompts).compile()
    spread, also_scored = program(params, prompts)
    loops, _, _ = program.as_text().partition("\nENTRY")
    assert "all-gather" not in loops  # nothing is handed around
    np.testing.assert_array_equal(alone.tokens, spread.tokens)
    np.testing.assert_allclose(alone.log_probs, spread.log_probs, rtol=0, atol=1e-5)
    np.testing.assert_allclose(scored, also_scored, rtol=0, atol=1e-5)
