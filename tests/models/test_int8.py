"""Int8: rounding, linear maps, and a KV cache that returns what was written."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from corl_jax.models.attention_kernels import attend
from corl_jax.models.int8 import (
    Int8,
    Int8Linear,
    dequantized,
    quantize_int8,
    query_key_products,
    weighted_values,
)
from corl_jax.models.janus.config import TINY
from corl_jax.models.janus.model import abstract
from corl_jax.models.kv_cache import KVCache
from corl_jax.models.layers import linear
from corl_jax.models.shared_prefix import attend_shared_prefix

SHAPES = (2, 5), (6, 7)
"""Rows and positions of a prefix of two prompts, and of the three samples of each."""


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
                    [x.dequantize(jnp.float32) for x in cache.layer(layer, 3)],
                    expected.layer(layer, 3),
                )
        stored = quantized.layer(layer, index + keys.shape[2])[0]
        written = stored.dequantize(jnp.float32)[:, :, index:]
        np.testing.assert_allclose(written, keys, atol=half_step(keys))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(quantized)} == {"int8", "float32"}


def int8_kv(rng, rows, length):
    """Keys or values ``[rows, 2, length, 16]`` whose scales differ a thousandfold by position."""
    sizes = 10.0 ** rng.uniform(-2, 1, size=(rows, 2, length, 1))
    return Int8.quantize(jnp.asarray(rng.normal(size=(rows, 2, length, 16)) * sizes), -1)


def test_products_with_scales_by_hand(rng):
    """Scores and mixed values of an int8 cache, with scales multiplied afterwards, in float64."""
    q = rng.normal(size=(3, 2, 5, 16)).astype(np.float32)
    weights = rng.random((3, 2, 5, 7)).astype(np.float32)
    kv = int8_kv(rng, 3, 7)
    exact = np.asarray(kv.values, np.float64) * np.asarray(kv.scale, np.float64)

    scores = query_key_products(jnp.asarray(q), kv)
    expected = np.einsum("nkmc,nksc->nkms", q, exact)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)

    mixed = weighted_values(jnp.asarray(weights), kv, jnp.float32)
    expected = np.einsum("nkms,nksc->nkmc", weights, exact)
    np.testing.assert_allclose(mixed, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 0.03)])
def test_attention_to_int8_equals_attention_to_the_dequantized(rng, shared, dtype, tolerance):
    """Equal to rounding, and in bfloat16 no further from the exact result than widened keys are."""
    q = jnp.asarray(rng.normal(size=(6, 1, 4, 16)), dtype)
    caches = [(int8_kv(rng, rows, length), int8_kv(rng, rows, length)) for rows, length in SHAPES]
    mask = jnp.asarray(rng.random((6, 1, 12)) < 0.7).at[:, 0, 0].set(True)

    def attended(dtype, convert):
        prefix_kv, row_kv = ([convert(x, dtype) for x in kv] for kv in caches)
        if shared:
            return attend_shared_prefix(q.astype(dtype), prefix_kv, row_kv, mask)
        return attend(q.astype(dtype), *row_kv, mask[..., 5:].at[..., 0].set(True))

    # The queries are the same numbers in both dtypes.
    exact = attended(jnp.float32, dequantized)
    actual = attended(dtype, lambda x, _: x).astype(jnp.float32)
    widened = attended(dtype, dequantized).astype(jnp.float32)
    assert np.abs(exact).max() > 1
    np.testing.assert_allclose(actual, exact, rtol=tolerance, atol=tolerance)
    if dtype == jnp.bfloat16:
        assert np.abs(actual - exact).mean() <= 1.1 * np.abs(widened - exact).mean()


@pytest.mark.parametrize("shared", [False, True])
def test_one_query_reads_the_cache_as_it_is_stored(rng, shared):
    """No array of the size of the keys is ever multiplied: only converted, and then a product."""
    prefix_kv, row_kv = ((int8_kv(rng, rows, n), int8_kv(rng, rows, n)) for rows, n in SHAPES)
    q, mask = jnp.ones((6, 1, 4, 16), jnp.bfloat16), jnp.ones((6, 1, 12), bool)

    def attended(q, prefix_kv, row_kv):
        if shared:
            return attend_shared_prefix(q, prefix_kv, row_kv, mask)
        return attend(q, *row_kv, mask[..., 5:])

    jaxpr = jax.make_jaxpr(attended)(q, prefix_kv, row_kv)
    key_shapes = {(rows, 2, length, 16) for rows, length in SHAPES}
    made = {
        equation.primitive.name
        for equation in jaxpr.eqns
        for result in equation.outvars
        if result.aval.shape in key_shapes
    }
    assert made == {"convert_element_type"}


def assert_close(arrays, expected):
    for x, y in zip(arrays, expected, strict=True):
        assert x.dtype == jnp.float32
        np.testing.assert_allclose(x, y, atol=half_step(y))


def half_step(x):
    """Half a step of int8 for the largest number of ``x``."""
    return 0.5 * np.abs(x).max() / 127 + 1e-6
