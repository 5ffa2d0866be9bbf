"""Int8: nearest numbers, linear maps that follow, a cache that takes and gives."""

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
    short = Int8.of(x, -1)
    assert short.values.dtype == jnp.int8 and short.scale.shape == (3, 1)
    np.testing.assert_array_equal(short.values, [[-127, 0, 50], [0, 0, 0], [42, -127, 85]])
    np.testing.assert_allclose(short.to(jnp.float32), x, atol=0.5 * float(short.scale[0, 0]))
    assert short.to(jnp.bfloat16).dtype == jnp.bfloat16


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_linear_map_keeps_a_scale_for_every_output(rng, dtype):
    """Outputs of very different sizes are all within what rounding their own weights explains."""
    exact = linear(64, 8, ("embed", "mlp"), bias=False, dtype=jnp.float32, rngs=nnx.Rngs(0))
    exact.kernel[...] *= 10.0 ** jnp.arange(-4, 4)
    exact.dtype = dtype
    short, x = Int8Linear(exact), rng.normal(size=(5, 64)).astype(np.float32)
    want = x @ np.asarray(exact.kernel[...])
    assert short(x).dtype == dtype and short.scale.shape == (1, 8)
    np.testing.assert_allclose(short(x) / want.std(0), want / want.std(0), atol=0.03)


def test_the_language_model_alone_is_shortened():
    shape = abstract(TINY)
    before = {type(module) for _, module in nnx.iter_modules(shape.language_model)}
    short = nnx.eval_shape(lambda model: quantize_int8(model, weights=True, cache=True), shape)
    after = {type(module) for _, module in nnx.iter_modules(short.language_model)}
    assert nnx.Linear in before and nnx.Linear not in after and Int8Linear in after
    assert all(not isinstance(module, Int8Linear) for _, module in nnx.iter_modules(short.gen_head))
    kernel = short.language_model.layers.attention.q_proj.kernel
    assert (
        kernel.dtype == jnp.int8
        and kernel.shape == shape.language_model.layers.attention.q_proj.kernel.shape
    )
    assert isinstance(short.language_model.empty_cache(1, 4).k, Int8)
    assert not isinstance(shape.language_model.empty_cache(1, 4).k, Int8)


@pytest.mark.parametrize("stacked", [False, True])
def test_a_cache_gives_back_what_it_took(rng, stacked):
    """Grown, branched and written to, beside the same in float32."""
    short, exact = (
        KVCache.empty(2, 2, 3, 2, 4, dtype, stacked) for dtype in (jnp.int8, jnp.float32)
    )
    first, later = (
        jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, 2, 3, 4), (4, 2, 1, 4))
    )
    for layer, at, new in ((0, 0, first), (1, 0, 2 * first), (1, 3, later)):
        if at:
            short, exact = (cache.fork(2).grow(5) for cache in (short, exact))
        short, exact = (cache.write(new, -new, layer, at) for cache in (short, exact))
        assert short.length == exact.length == (5 if at else 3)
        for one, other in zip((short, short.shared), (exact, exact.shared), strict=True):
            if one is not None:
                got, wanted = (cache.layer(layer, 3, jnp.float32) for cache in (one, other))
                assert all(x.dtype == jnp.float32 for x in got)
                for x, y in zip(got, wanted, strict=True):
                    np.testing.assert_allclose(x, y, atol=0.5 * np.abs(y).max() / 127 + 1e-6)
        got = short.layer(layer, at + new.shape[2], jnp.float32)[0][:, :, at:]
        np.testing.assert_allclose(got, new, atol=0.5 * np.abs(new).max() / 127 + 1e-6)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(short)} == {"int8", "float32"}
