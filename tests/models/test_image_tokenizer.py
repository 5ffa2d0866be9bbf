"""The VQ image tokenizer and its codebook."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corl_jax.models.janus.codebook import l2_normalize
from corl_jax.models.janus.config import TINY
from corl_jax.models.janus.model import abstract


@pytest.fixture(scope="module")
def tokenizer(model):
    return model.image_tokenizer


def test_shapes_and_dtypes(tokenizer):
    images = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3), minval=-1, maxval=1)
    tokens = jax.jit(lambda t, x: t.encode(x))(tokenizer, images)
    assert tokens.shape == (2, 16) and tokens.dtype == jnp.int32
    assert tokens.min() >= 0 and tokens.max() < 32

    decoded = jax.jit(lambda t, c: t.decode(c))(tokenizer, tokens)
    assert decoded.shape == images.shape and decoded.dtype == jnp.float32
    assert np.isfinite(decoded).all()


def test_shapes_of_the_tiny_size():
    tiny = abstract(TINY).image_tokenizer
    side = TINY.vision.image_size
    images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    tokens = jax.eval_shape(lambda t, x: t.encode(x), tiny, images)
    assert tokens.shape == (2, TINY.image_tokens) and tokens.dtype == jnp.int32
    assert jax.eval_shape(lambda t, c: t.decode(c), tiny, tokens).shape == (2, side, side, 3)


def test_tokens_are_numbered_row_by_row(tokenizer):
    """A latent in the top right corner becomes the token at the end of the first row."""
    z = jnp.zeros((1, 4, 4, 4)).at[...].set(tokenizer.quantize.lookup(jnp.asarray(3)))
    z = z.at[0, 0, 3].set(tokenizer.quantize.lookup(jnp.asarray(7)))
    tokens = tokenizer.quantize.nearest(z).reshape(1, -1)
    np.testing.assert_array_equal(np.flatnonzero(tokens[0] == 7), [3])


def test_search_and_lookup_use_normalized_codes(tokenizer, rng):
    codebook = tokenizer.quantize
    vectors = np.asarray(codebook.embedding[...]) * rng.uniform(0.5, 2, (32, 1))
    scaled = jax.tree.map(lambda leaf: jnp.asarray(vectors), codebook)
    z = jnp.asarray(rng.normal(size=(50, 4)))

    # Neither the norms of codes matter nor those of latents.
    np.testing.assert_array_equal(scaled.nearest(z), codebook.nearest(z))
    np.testing.assert_array_equal(codebook.nearest(5 * z), codebook.nearest(z))

    unit_vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(scaled.lookup(jnp.arange(32)), unit_vectors, rtol=1e-5)

    differences = (
        np.asarray(l2_normalize(z))[:, None] - np.asarray(l2_normalize(jnp.asarray(vectors)))[None]
    )
    distances = np.square(differences).sum(-1)
    np.testing.assert_array_equal(codebook.nearest(z), distances.argmin(-1))


def test_every_code_is_its_own_nearest(tokenizer):
    codes = jnp.arange(32)
    vectors = tokenizer.quantize.lookup(codes)
    np.testing.assert_array_equal(tokenizer.quantize.nearest(vectors), codes)


def test_l2_normalize_is_safe_at_zero():
    assert np.isfinite(jax.grad(lambda x: l2_normalize(x).sum())(jnp.zeros(4))).all()
    np.testing.assert_array_equal(l2_normalize(jnp.zeros(4)), 0)


def test_tokenizer_stays_in_float32_in_a_bfloat16_model():
    tokenizer = abstract(TINY, dtype=jnp.bfloat16).image_tokenizer
    side = TINY.vision.image_size
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.bfloat16)
    latents = jax.eval_shape(lambda t, x: t.latents(x), tokenizer, images)
    assert latents.dtype == jnp.float32
