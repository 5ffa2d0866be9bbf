"""Int8: rounding, linear maps, and a KV cache that returns what was written."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from corl_jax.models.int8 import Int8, Int8Linear, quantize_int8
from corl_jax.models.janus.config import TINY
from corl_jax.models.janus.model import abstract
from corl_jax.models.kv_cache import KVCache
from corl_jax.models.layers import linear


def test_numbers_are_the_nearest_of_255_and_zeros_stay():
    x = jnp.asarray([[-2.54, 0.0, 1.0], [0.0, 0.0, 0.0], [1e-30, -3e-30, 2e-30]])
    quantized = Int8.quantize(x, -1)
    assert quantized.values.dtype == jnp.int8 and quantized.scale.shape == (3, 1)
    np.testing.assert_array_equal(quantized.values, [[-127, 0, 50], [0, 0, 0], [42, -127, 85]])
    half_step = 0.5 * float(quantized.scale[0, 0])
    np.testing.assert_allclose(quantized.dequantize(jnp.float32), x, atol=half_step)
    assert quantized.dequantize(jnp.bfloat16).dtype == jnp.bfloat16


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_linear_map_has_a_scale_for_every_output(rng, dtype):
    """Outputs of very different sizes are all as exact as rounding their own weights allows."""
    exact = linear(64, 8, ("embed", "mlp"), bias=False, dtype=jnp.float32, rngs=nnx.Rngs(0))
    exact.kernel[...] *= 10.0 ** jnp.arange(-4, 4)
    exact.dtype = dtype
    quantized, x = Int8Linear(exact), rng.normal(size=(5, 64)).astype(np.float32)

    expected = x @ np.asarray(exact.kernel[...])
    assert quantized(x).dtype == dtype and quantized.scale.shape == (1, 8)
    spread = expected.std(0)
    np.testing.assert_allclose(quantized(x) / spread, expected / spread, atol=0.03)


def test_only_the_backbone_is_quantized():
    exact = abstract(TINY)
    quantized = nnx.eval_shape(lambda model: quantize_int8(model, weights=True, cache=True), exact)
    before = {type(module) for _, module in nnx.iter_modules(exact.backbone)}
    after = {type(module) for _, module in nnx.iter_modules(quantized.backbone)}
    image_head = [module for _, module in nnx.iter_modules(quantized.image_head)]

    assert nnx.Linear in before and nnx.Linear not in after and Int8Linear in after
    assert not any(isinstance(module, Int8Linear) for module in image_head)

    kernel = quantized.language_model.layers.attention.q_proj.kernel
    assert kernel.dtype == jnp.int8
    assert kernel.shape == exact.language_model.layers.attention.q_proj.kernel.shape
    assert isinstance(quantized.backbone.empty_cache(1, 4).k, Int8)
    assert not isinstance(exact.backbone.empty_cache(1, 4).k, Int8)


@pytest.mark.parametrize("stacked", [False, True])
def test_a_cache_returns_what_was_written(rng, stacked):
    """Grown, forked and written to, compared with the same cache in float32."""
    quantized, exact = (
        KVCache.empty(2, 2, 3, 2, 4, dtype, stacked) for dtype in (jnp.int8, jnp.float32)
    )
    prompt_keys = jnp.asarray(rng.normal(size=(2, 2, 3, 4)), jnp.float32)
    token_keys = jnp.asarray(rng.normal(size=(4, 2, 1, 4)), jnp.float32)

    writes = ((0, 0, prompt_keys), (1, 0, 2 * prompt_keys), (1, 3, token_keys))
    for layer, index, keys in writes:
        if index:
            quantized, exact = (cache.fork(2).grow(5) for cache in (quantized, exact))
        quantized, exact = (cache.write(keys, -keys, layer, index) for cache in (quantized, exact))
        assert quantized.length == exact.length == (5 if index else 3)

        # The cache and its shared part agree within half a step of rounding.
        for cache, expected in ((quantized, exact), (quantized.shared, exact.shared)):
            assert (cache is None) == (expected is None)
            if cache is not None:
                assert_close(
                    cache.layer(layer, 3, jnp.float32), expected.layer(layer, 3, jnp.float32)
                )
        written = quantized.layer(layer, index + keys.shape[2], jnp.float32)[0][:, :, index:]
        np.testing.assert_allclose(written, keys, atol=half_step(keys))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(quantized)} == {"int8", "float32"}


def assert_close(arrays, expected):
    for x, y in zip(arrays, expected, strict=True):
        assert x.dtype == jnp.float32
        np.testing.assert_allclose(x, y, atol=half_step(y))


def half_step(x):
    """Half a step of int8 for the largest number of ``x``."""
    return 0.5 * np.abs(x).max() / 127 + 1e-6
