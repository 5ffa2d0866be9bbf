"""An int8 sampler: smaller, close to the policy but not equal to it, and sharded like it."""

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
from corl_jax.sampling.log_probs import LogProbOptions, log_probs_and_entropy
from corl_jax.sampling.quantized import quantized_policy

NORM, KERNEL = "language_model/layers/mlp_norm/scale", "language_model/layers/gate_proj/kernel"


def test_same_dtypes_change_nothing(tiny_policy):
    fns, params = tiny_policy.fns, tiny_policy.params
    sampler, quantize = quantized_policy(fns, params, weights_dtype="same", cache_dtype="same")
    assert sampler is fns and quantize(params) is params
    message = "the cache dtype of rollouts must be one of same, int8; got 'int4'"
    with pytest.raises(UserError, match=message):
        quantized_policy(fns, params, weights_dtype="same", cache_dtype="int4")


@pytest.mark.parametrize(
    ("weights_dtype", "cache_dtype", "unroll"), [("int8", "same", 1), ("same", "int8", 4)]
)
def test_samples_are_nearly_of_the_policy(tiny_policy, weights_dtype, cache_dtype, unroll):
    """In both forms of decoding the policy's own log-probs are close, but not equal."""
    captions = ("a red circle", "two blue squares")
    rows = [tiny_policy.tokenizer.image_generation_prompt(caption) for caption in captions]
    prompts = Prompts(*left_pad(rows, tiny_policy.tokenizer.pad_id))
    keys = sample_keys(stream(0, "test", 0), 4).reshape(2, 2)
    sampling, ids = tiny_policy.fns.sampling_params("image"), tiny_policy.fns.ids

    graphdef = nnx.split(abstract(tiny_policy.cfg, unroll=unroll))[0]
    policy = dataclasses.replace(tiny_policy.fns, graphdef=graphdef)
    sampler, quantize = quantized_policy(
        policy, tiny_policy.params, weights_dtype=weights_dtype, cache_dtype=cache_dtype
    )
    sampler_params = quantize(tiny_policy.params)

    @jax.jit
    def log_prob_differences(params, sampler_params):
        sampler_model = bind(sampler.graphdef, sampler_params)
        tokens, sampler_log_probs = decode_image(
            sampler_model, prompts, keys, sampling, ids, False, 12
        )
        tokens = tokens.reshape(2, 2, 12)
        log_probs, _ = log_probs_and_entropy(
            bind(graphdef, params), prompts, tokens, sampling, ids, "image", LogProbOptions()
        )
        return sampler_log_probs.reshape(tokens.shape) - log_probs

    differences = np.abs(log_prob_differences(tiny_policy.params, sampler_params))
    assert 1e-3 < differences.mean() < 0.2 and differences.max() > 1e-2
    assert (sampler_params[KERNEL].dtype == jnp.int8) == (weights_dtype == "int8")
    assert sampler_params[NORM].dtype == jnp.float32


def test_quantized_weights_keep_their_sharding(random_params, tiny_policy):
    sharder, model = Sharder(make_mesh({"fsdp": 4, "tensor": 2})), abstract(tiny_policy.cfg)
    axes = logical_axes(model)
    params = {
        path: jax.device_put(leaf, sharder.named_sharding(*axes[path]))
        for path, leaf in random_params(model).items()
    }
    _, quantize = quantized_policy(
        tiny_policy.fns, params, weights_dtype="int8", cache_dtype="same"
    )
    kernel = quantize(params)[KERNEL]
    assert kernel.sharding.is_equivalent_to(params[KERNEL].sharding, 3)
    assert kernel.addressable_shards[0].data.nbytes * 8 * 4 == params[KERNEL].nbytes
