"""Two real arrays of the released Janus-Pro-1B through the paths that read them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from corl_jax.models.janus.codebook import Codebook
from corl_jax.models.janus.config import JANUS_PRO_1B
from corl_jax.models.layers import Mlp2

CODES = JANUS_PRO_1B.image_tokenizer


@pytest.fixture(scope="module")
def arrays(test_data):
    folder = test_data("data/janus_pro_1b")
    return np.load(folder / "codebook_normalised.npy"), np.load(folder / "gen_embed.npy")


@pytest.fixture(scope="module")
def codebook(arrays):
    book = Codebook(CODES.codebook_size, CODES.code_dim, rngs=nnx.Rngs(0))
    assert book.embedding.shape == arrays[0].shape == (16384, 8)
    book.embedding[...] = jnp.asarray(arrays[0])
    return book


def test_codebook_rows_are_looked_up_at_unit_norm(codebook, arrays):
    norms = np.linalg.norm(arrays[0], axis=-1, keepdims=True)
    assert np.abs(norms - 1).max() < 0.01  # normalised, then rounded to bfloat16
    np.testing.assert_allclose(codebook.lookup(jnp.arange(16384)), arrays[0] / norms, atol=1e-6)


def test_every_code_is_found_again_also_with_some_noise_and_any_length(codebook, arrays, rng):
    rows = arrays[0]
    pick = rng.choice(16384, 576, replace=False)
    lengths = rng.uniform(0.1, 5, (576, 1)).astype(np.float32)
    exact = codebook.nearest(jnp.asarray(rows[pick] * lengths))
    np.testing.assert_allclose(rows[np.asarray(exact)], rows[pick], atol=1e-2)
    z = rng.normal(size=(24, 24, 8)).astype(np.float32)
    unit = z.astype(np.float64) / np.linalg.norm(z.astype(np.float64), axis=-1, keepdims=True)
    unit_rows = rows.astype(np.float64) / np.linalg.norm(
        rows.astype(np.float64), axis=-1, keepdims=True
    )
    distance = ((unit[..., None, :] - unit_rows) ** 2).sum(-1)
    found = np.asarray(codebook.nearest(jnp.asarray(z)))
    best, chosen = distance.min(-1), np.take_along_axis(distance, found[..., None], -1)[..., 0]
    assert (chosen - best).max() < 1e-5 and len(np.unique(found)) > 300


def test_embeddings_of_image_tokens_feed_the_aligner(arrays, rng):
    table = arrays[1]
    embed = nnx.Embed(16384, 8, rngs=nnx.Rngs(0))
    embed.embedding[...] = jnp.asarray(table)
    aligner = Mlp2(8, 32, 16, ("mlp", "embed"), dtype=jnp.float32, rngs=nnx.Rngs(1))
    codes = rng.integers(0, 16384, (2, 576))
    ours = aligner(embed(jnp.asarray(codes)))
    x = table[codes].astype(np.float64) @ np.asarray(
        aligner.fc1.kernel[...], np.float64
    ) + np.asarray(aligner.fc1.bias)
    x = np.asarray(jax.nn.gelu(jnp.asarray(x, jnp.float32), approximate=False), np.float64)
    x = x @ np.asarray(aligner.fc2.kernel[...], np.float64) + np.asarray(aligner.fc2.bias)
    np.testing.assert_allclose(ours, x, atol=1e-5)
    norms = np.linalg.norm(table, axis=-1)
    assert (
        norms.min() < 0.8 and norms.max() > 1.1
    )  # its own table, not the codebook, whose rows have norm 1
