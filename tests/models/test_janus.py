import jax
import jax.numpy as jnp
import numpy as np

from corl_jax.models.janus.config import TINY
from corl_jax.models.janus.model import abstract

IMAGE = 39


def test_pictures_land_exactly_at_placeholders_in_order(model, rng):
    images = jnp.asarray(rng.uniform(-1, 1, (2, 16, 16, 3)), jnp.float32)
    tokens = rng.integers(0, 39, (2, 22))
    tokens[0, 3:19] = IMAGE
    tokens[1, 6:22] = IMAGE  # further to the right, as after left padding
    x = model.embed_prompt(jnp.asarray(tokens), images, IMAGE)
    pictures, text = model.embed_images(images), model.embed_text(jnp.asarray(tokens))
    assert pictures.shape == (2, 16, 32)
    np.testing.assert_array_equal(x[0, 3:19], pictures[0])
    np.testing.assert_array_equal(x[1, 6:22], pictures[1])
    np.testing.assert_array_equal(x[tokens != IMAGE], text[tokens != IMAGE])


def test_rows_without_pictures_are_plain_text(model, rng):
    tokens = jnp.asarray(rng.integers(0, 39, (2, 5)))
    np.testing.assert_array_equal(model.embed_prompt(tokens, None, IMAGE), model.embed_text(tokens))
    images = jnp.zeros((2, 16, 16, 3))
    np.testing.assert_array_equal(
        model.embed_prompt(tokens, images, IMAGE), model.embed_text(tokens)
    )


def test_patches_are_read_row_by_row(model):
    """With blocks silenced, a change in one patch moves the state of that patch only."""
    base = jnp.zeros((1, 16, 16, 3))
    patches = [
        model.vision_model.patch_embed(base.at[0, 2, at].set(x)).reshape(16, -1)
        for at, x in ((0, 0), (13, 1))
    ]
    moved = np.abs(patches[0] - patches[1]).max(-1)
    np.testing.assert_array_equal(np.flatnonzero(moved), [3])


def test_the_tower_looks_both_ways(model):
    """The first state feels a change in the last patch."""
    images = jnp.zeros((2, 16, 16, 3)).at[1, 12:, 12:].set(1)
    states = model.vision_model(images)
    assert np.abs(states[0, 0] - states[1, 0]).max() > 1e-3


def test_shapes_and_types_of_ways_in_and_out():
    for dtype in (jnp.float32, jnp.bfloat16):
        tiny = abstract(TINY, dtype=dtype)
        width, side = TINY.decoder.width, TINY.vision.image_size
        tokens = jax.ShapeDtypeStruct((2, 7), jnp.int32)
        images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
        states = jax.ShapeDtypeStruct((2, 7, width), dtype)
        outs = {
            "text": jax.eval_shape(lambda m, t: m.embed_text(t), tiny, tokens),
            "codes": jax.eval_shape(lambda m, t: m.embed_image_tokens(t), tiny, tokens),
            "prompt": jax.eval_shape(lambda m, t, i: m.embed_prompt(t, i, 1), tiny, tokens, images),
        }
        assert {(out.shape, out.dtype) for out in outs.values()} == {
            ((2, 7, width), jnp.dtype(dtype))
        }
        text = jax.eval_shape(lambda m, s: m.text_logits(s), tiny, states)
        image = jax.eval_shape(lambda m, s: m.image_logits(s), tiny, states)
        assert (text.shape, text.dtype) == ((2, 7, TINY.decoder.vocab_size), jnp.float32)
        assert (image.shape, image.dtype) == (
            (2, 7, TINY.image_tokenizer.codebook_size),
            jnp.float32,
        )
