"""Inputs and outputs of Janus: prompts with images, the vision tower, shapes and dtypes."""

import jax
import jax.numpy as jnp
import numpy as np

from corl_jax.models.janus.config import TINY
from corl_jax.models.janus.model import abstract

IMAGE_ID = 39


def test_image_states_replace_the_placeholders_in_order(model, rng):
    images = jnp.asarray(rng.uniform(-1, 1, (2, 16, 16, 3)), jnp.float32)
    tokens = rng.integers(0, 39, (2, 22))
    tokens[0, 3:19] = IMAGE_ID
    tokens[1, 6:22] = IMAGE_ID  # further to the right, as after left padding

    x = model.embed_prompt(jnp.asarray(tokens), images, IMAGE_ID)
    image_states, text = model.embed_images(images), model.embed_text(jnp.asarray(tokens))

    assert image_states.shape == (2, 16, 32)
    np.testing.assert_array_equal(x[0, 3:19], image_states[0])
    np.testing.assert_array_equal(x[1, 6:22], image_states[1])
    np.testing.assert_array_equal(x[tokens != IMAGE_ID], text[tokens != IMAGE_ID])


def test_rows_without_placeholders_are_plain_text(model, rng):
    tokens = jnp.asarray(rng.integers(0, 39, (2, 5)))
    text = model.embed_text(tokens)
    np.testing.assert_array_equal(model.embed_prompt(tokens, None, IMAGE_ID), text)
    images = jnp.zeros((2, 16, 16, 3))
    np.testing.assert_array_equal(model.embed_prompt(tokens, images, IMAGE_ID), text)


def test_several_images_of_a_prompt_follow_each_other(model, rng):
    size, count = 16, 16
    images = jnp.asarray(rng.uniform(-1, 1, (2, 2, size, size, 3)), jnp.float32)
    tokens = np.full((2, 2 * count + 3), 1)
    tokens[:, 1 : 1 + count] = tokens[:, 2 + count : 2 + 2 * count] = IMAGE_ID
    # The second prompt has a single image; its other one is not read.
    tokens[1, 2 + count :] = 1
    x = model.embed_prompt(jnp.asarray(tokens), images, IMAGE_ID)

    states = model.embed_images(images.reshape(4, size, size, 3))
    np.testing.assert_allclose(x[0, 1 : 1 + count], states[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(x[0, 2 + count : 2 + 2 * count], states[1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(x[1, 1 : 1 + count], states[2], rtol=1e-5, atol=1e-5)
    text = model.embed_text(jnp.asarray(tokens))
    np.testing.assert_array_equal(x[1, 1 + count :], text[1, 1 + count :])


def test_patches_are_numbered_row_by_row(model):
    """A change in one patch changes the embedding of that patch only."""
    black = jnp.zeros((1, 16, 16, 3))
    embeddings = [
        model.vision_model.patch_embed(black.at[0, 2, column].set(value)).reshape(16, -1)
        for column, value in ((0, 0), (13, 1))
    ]
    change = np.abs(embeddings[0] - embeddings[1]).max(-1)
    np.testing.assert_array_equal(np.flatnonzero(change), [3])


def test_vision_attention_is_bidirectional(model):
    """A change in the last patch changes the first state."""
    images = jnp.zeros((2, 16, 16, 3)).at[1, 12:, 12:].set(1)
    states = model.vision_model(images)
    assert np.abs(states[0, 0] - states[1, 0]).max() > 1e-3


def test_shapes_and_dtypes_of_embeddings_and_logits():
    for dtype in (jnp.float32, jnp.bfloat16):
        tiny = abstract(TINY, dtype=dtype)
        width, side = TINY.decoder.width, TINY.vision.image_size
        tokens = jax.ShapeDtypeStruct((2, 7), jnp.int32)
        images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
        states = jax.ShapeDtypeStruct((2, 7, width), dtype)

        embeddings = [
            jax.eval_shape(lambda m, t: m.embed_text(t), tiny, tokens),
            jax.eval_shape(lambda m, t: m.embed_image_tokens(t), tiny, tokens),
            jax.eval_shape(lambda m, t, i: m.embed_prompt(t, i, 1), tiny, tokens, images),
        ]
        for x in embeddings:
            assert (x.shape, x.dtype) == ((2, 7, width), jnp.dtype(dtype))

        text = jax.eval_shape(lambda m, s: m.text_logits(s), tiny, states)
        image = jax.eval_shape(lambda m, s: m.image_logits(s), tiny, states)
        assert (text.shape, text.dtype) == ((2, 7, TINY.text_vocab_size), jnp.float32)
        assert (image.shape, image.dtype) == ((2, 7, TINY.image_vocab_size), jnp.float32)
        assert TINY.text_vocab_size == TINY.decoder.vocab_size
        assert TINY.image_vocab_size == TINY.image_tokenizer.codebook_size
