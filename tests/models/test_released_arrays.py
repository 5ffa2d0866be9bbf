"""Two arrays of the released Janus-Pro-1B through the code that reads them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from corl_jax.models.janus.codebook import Codebook
from corl_jax.models.janus.config import JANUS_PRO_1B
from corl_jax.models.layers import Mlp2

TOKENIZER = JANUS_PRO_1B.image_tokenizer


@pytest.fixture(scope="module")
def arrays(test_data):
    """Vectors of the codebook, and the table of input embeddings of image tokens."""
    folder = test_data("data/janus_pro_1b")
    return np.load(folder / "codebook_normalised.npy"), np.load(folder / "gen_embed.npy")


@pytest.fixture(scope="module")
def codebook(arrays):
    codebook = Codebook(TOKENIZER.codebook_size, TOKENIZER.code_dim, rngs=nnx.Rngs(0))
    assert codebook.embedding.shape == arrays[0].shape == (16384, 8)
    codebook.embedding[...] = jnp.asarray(arrays[0])
    return codebook


def test_lookup_returns_vectors_of_norm_one(codebook, arrays):
    norms = np.linalg.norm(arrays[0], axis=-1, keepdims=True)
    assert np.abs(norms - 1).max() < 0.01  # normalized, then rounded to bfloat16
    np.testing.assert_allclose(codebook.lookup(jnp.arange(16384)), arrays[0] / norms, atol=1e-6)


def test_nearest_code_at_any_length_and_of_random_latents(codebook, arrays, rng):
    vectors = arrays[0]

    # A code that is scaled has itself as the nearest, or one as good as equal.
    codes = rng.choice(16384, 576, replace=False)
    lengths = rng.uniform(0.1, 5, (576, 1)).astype(np.float32)
    nearest = codebook.nearest(jnp.asarray(vectors[codes] * lengths))
    np.testing.assert_allclose(vectors[np.asarray(nearest)], vectors[codes], atol=1e-2)

    # Of random latents, against distances in float64.
    z = rng.normal(size=(24, 24, 8)).astype(np.float32)
    distances = ((unit64(z)[..., None, :] - unit64(vectors)) ** 2).sum(-1)
    nearest = np.asarray(codebook.nearest(jnp.asarray(z)))
    chosen = np.take_along_axis(distances, nearest[..., None], -1)[..., 0]
    assert (chosen - distances.min(-1)).max() < 1e-5 and len(np.unique(nearest)) > 300


def unit64(vectors):
    vectors = vectors.astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_embeddings_of_image_tokens_feed_the_aligner(arrays, rng):
    table = arrays[1]
    embed = nnx.Embed(16384, 8, rngs=nnx.Rngs(0))
    embed.embedding[...] = jnp.asarray(table)
    aligner = Mlp2(8, 32, 16, ("mlp", "embed"), dtype=jnp.float32, rngs=nnx.Rngs(1))
    tokens = rng.integers(0, 16384, (2, 576))

    x = linear64(table[tokens].astype(np.float64), aligner.fc1)
    x = np.asarray(jax.nn.gelu(jnp.asarray(x, jnp.float32), approximate=False), np.float64)
    x = linear64(x, aligner.fc2)
    np.testing.assert_allclose(aligner(embed(jnp.asarray(tokens))), x, atol=1e-5)

    # The table is not the codebook, whose vectors have norm 1.
    norms = np.linalg.norm(table, axis=-1)
    assert norms.min() < 0.8 and norms.max() > 1.1


def linear64(x, linear):
    return x @ np.asarray(linear.kernel[...], np.float64) + np.asarray(linear.bias)
