"""A sampler in eight bits: smaller, close to the policy and not the policy, made where the parameters lie."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from corl_jax.core.errors import UserError
from corl_jax.core.rng import sample_keys, stream
from corl_jax.core.sharding import Sharder, make_mesh
from corl_jax.core.trees import bind
from corl_jax.core.types import Prompts
from corl_jax.data.text_tokenizer import left_pad
from corl_jax.models.janus.model import abstract, logical_axes
from corl_jax.sampling.decode import decode_image
from corl_jax.sampling.log_probs import log_probs_and_entropy
from corl_jax.sampling.quantized import quantized_policy

NORM, KERNEL = "language_model/layers/mlp_norm/scale", "language_model/layers/gate_proj/kernel"


def test_the_same_is_the_same(tiny_policy):
    sampler, lighten = quantized_policy(
        tiny_policy.fns, tiny_policy.params, weights="same", cache="same"
    )
    assert sampler is tiny_policy.fns and lighten(tiny_policy.params) is tiny_policy.params
    with pytest.raises(UserError, match="rollout cache 'int4'.*same, int8"):
        quantized_policy(tiny_policy.fns, tiny_policy.params, weights="same", cache="int4")


@pytest.mark.parametrize(("weights", "cache", "unroll"), [("int8", "same", 1), ("same", "int8", 4)])
def test_what_it_draws_is_nearly_what_the_policy_would_say(tiny_policy, weights, cache, unroll):
    """In both forms of decoding; scored by the policy, the mean gap is small, and it is there."""
    rows = [
        tiny_policy.tokenizer.image_generation_prompt(caption)
        for caption in ("a red circle", "two blue squares")
    ]
    prompts, ids = Prompts(*left_pad(rows, tiny_policy.tokenizer.pad_id)), tiny_policy.fns.ids
    keys = sample_keys(stream(0, "test", 0), 4).reshape(2, 2)
    sampling = tiny_policy.fns.sampling_params("image")
    graphdef = nnx.split(abstract(tiny_policy.cfg, unroll=unroll))[0]
    policy = dataclasses.replace(tiny_policy.fns, graphdef=graphdef)
    sampler, lighten = quantized_policy(policy, tiny_policy.params, weights=weights, cache=cache)
    light = lighten(tiny_policy.params)

    @jax.jit
    def run(params, light):
        tokens, said = decode_image(
            bind(sampler.graphdef, light), prompts, keys, sampling, ids, False, 12
        )
        tokens = tokens.reshape(2, 2, 12)
        scored, _ = log_probs_and_entropy(
            bind(graphdef, params), prompts, tokens, sampling, ids, modality="image"
        )
        return said.reshape(tokens.shape) - scored

    gap = np.abs(run(tiny_policy.params, light))
    assert 1e-3 < gap.mean() < 0.2 and gap.max() > 1e-2
    assert (light[KERNEL].dtype == jnp.int8) == (weights == "int8") and light[
        NORM
    ].dtype == jnp.float32


def test_weights_stay_where_they_lie(random_params, tiny_policy):
    sharder, shape = Sharder(make_mesh({"fsdp": 4, "tensor": 2})), abstract(tiny_policy.cfg)
    axes = logical_axes(shape)
    params = {
        path: jax.device_put(leaf, sharder.named_sharding(*axes[path]))
        for path, leaf in random_params(shape).items()
    }
    light = quantized_policy(tiny_policy.fns, params, weights="int8", cache="same")[1](params)
    assert light[KERNEL].sharding.is_equivalent_to(params[KERNEL].sharding, 3)
    assert light[KERNEL].addressable_shards[0].data.nbytes * 8 * 4 == params[KERNEL].nbytes
