"""Looked-up rows of a table that groups of devices repeat: the same numbers, and the gradient sent as shares."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from corl_jax.core.per_device import shard_embedding_lookup
from corl_jax.core.sharding import Sharder, make_mesh, sharding_context

WORDS, WIDTH = 48, 16


def gradient(ask):
    """Of a weighted sum of looked-up rows, by the table; ``ask`` is ``shard_embedding_lookup`` or the identity."""

    def total(table, tokens):
        rows = ask(table[tokens])
        return jnp.sum(rows * jnp.cos(jnp.arange(rows.size, dtype=jnp.float32)).reshape(rows.shape))

    return jax.jit(jax.grad(total))


def test_no_device_adds_up_a_gradient_of_the_whole_table():
    rng = np.random.default_rng(0)
    table, tokens = (
        rng.normal(size=(WORDS, WIDTH)).astype(np.float32),
        rng.integers(0, WORDS, (8, 5)),
    )
    want = gradient(lambda rows: rows)(table, tokens)
    sharder = Sharder(make_mesh({"data": 2, "fsdp": 4}))
    with sharding_context(sharder):
        given = (
            jax.device_put(table, sharder.named_sharding("vocab", "embed")),
            sharder.put_batch(tokens),
        )
        run = gradient(lambda rows: shard_embedding_lookup(rows, "embed"))
        text = run.lower(*given).compile().as_text()
        np.testing.assert_allclose(run(*given), want, atol=1e-5)
    summed = set(re.findall(rf"f32\[{WORDS},(\d+)\]\S* (?:all-reduce|reduce-scatter)", text))
    assert summed == {str(WIDTH // 4)}
