import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corl_jax.models.janus.codebook import unit
from corl_jax.models.janus.config import TINY
from corl_jax.models.janus.model import abstract


@pytest.fixture(scope="module")
def tokenizer(model):
    return model.image_tokenizer


def test_shapes_and_types(tokenizer):
    images = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3), minval=-1, maxval=1)
    codes = jax.jit(lambda t, x: t.encode(x))(tokenizer, images)
    assert codes.shape == (2, 16) and codes.dtype == jnp.int32
    assert codes.min() >= 0 and codes.max() < 32
    pictures = jax.jit(lambda t, c: t.decode(c))(tokenizer, codes)
    assert pictures.shape == images.shape and pictures.dtype == jnp.float32
    assert np.isfinite(pictures).all()


def test_tiny_shapes_for_free():
    tiny = abstract(TINY).image_tokenizer
    side, tokens = TINY.vision.image_size, TINY.image_tokens
    codes = jax.eval_shape(
        lambda t, x: t.encode(x), tiny, jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    )
    assert codes.shape == (2, tokens) and codes.dtype == jnp.int32
    assert jax.eval_shape(lambda t, c: t.decode(c), tiny, codes).shape == (2, side, side, 3)


def test_codes_lie_row_by_row(tokenizer):
    """A change in the top right corner of the latents changes the code at the end of the first row."""
    z = jnp.zeros((1, 4, 4, 4)).at[...].set(tokenizer.quantize.lookup(jnp.asarray(3)))
    z = z.at[0, 0, 3].set(tokenizer.quantize.lookup(jnp.asarray(7)))
    codes = tokenizer.quantize.nearest(z).reshape(1, -1)
    np.testing.assert_array_equal(np.flatnonzero(codes[0] == 7), [3])


def test_codebook_is_normalised_in_search_and_in_look_up(tokenizer, rng):
    book = tokenizer.quantize
    raw = np.asarray(book.embedding[...]) * rng.uniform(0.5, 2, (32, 1))
    scaled = jax.tree.map(lambda leaf: jnp.asarray(raw), book)
    z = jnp.asarray(rng.normal(size=(50, 4)))
    np.testing.assert_array_equal(
        scaled.nearest(z), book.nearest(z)
    )  # lengths of rows do not matter
    np.testing.assert_array_equal(book.nearest(5 * z), book.nearest(z))  # nor those of latents
    np.testing.assert_allclose(scaled.lookup(jnp.arange(32)), raw / np.linalg.norm(raw, axis=1, keepdims=True),
                               rtol=1e-5)  # fmt: skip
    distances = np.square(
        np.asarray(unit(z))[:, None] - np.asarray(unit(jnp.asarray(raw)))[None]
    ).sum(-1)
    np.testing.assert_array_equal(book.nearest(z), distances.argmin(-1))


def test_every_code_finds_itself(tokenizer):
    codes = jnp.arange(32)
    np.testing.assert_array_equal(
        tokenizer.quantize.nearest(tokenizer.quantize.lookup(codes)), codes
    )


def test_unit_is_safe_at_zero():
    assert np.isfinite(jax.grad(lambda x: unit(x).sum())(jnp.zeros(4))).all()
    np.testing.assert_array_equal(unit(jnp.zeros(4)), 0)


def test_tokenizer_stays_in_float32_in_a_bfloat16_model():
    narrow = abstract(TINY, dtype=jnp.bfloat16)
    side = TINY.vision.image_size
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.bfloat16)
    assert (
        jax.eval_shape(lambda t, x: t.latents(x), narrow.image_tokenizer, images).dtype
        == jnp.float32
    )
