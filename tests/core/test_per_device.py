"""Embedding lookups in a table that is sharded over some batch axes: equal numbers, a smaller
gradient per device.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np

from corl_jax.core.per_device import shard_embedding_lookup
from corl_jax.core.sharding import Sharder, make_mesh, sharding_context

WORDS, WIDTH = 48, 16


def table_gradient(reshard):
    """Gradient of a weighted sum of looked-up rows; ``reshard`` is ``shard_embedding_lookup`` or
    the identity.
    """

    def total(table, tokens):
        rows = reshard(table[tokens])
        return jnp.sum(rows * jnp.cos(jnp.arange(rows.size, dtype=jnp.float32)).reshape(rows.shape))

    return jax.jit(jax.grad(total))


def test_no_device_sums_a_gradient_of_the_entire_table():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(WORDS, WIDTH)).astype(np.float32)
    tokens = rng.integers(0, WORDS, (8, 5))
    expected = table_gradient(lambda rows: rows)(table, tokens)
    sharder = Sharder(make_mesh({"data": 2, "fsdp": 4}))
    with sharding_context(sharder):
        args = (
            jax.device_put(table, sharder.named_sharding("vocab", "embed")),
            sharder.put_batch(tokens),
        )
        run = table_gradient(lambda rows: shard_embedding_lookup(rows, "embed"))
        hlo = run.lower(*args).compile().as_text()
        np.testing.assert_allclose(run(*args), expected, atol=1e-5)

    # Each collective on the gradient has a device's columns only.
    columns = set(re.findall(rf"f32\[{WORDS},(\d+)\]\S* (?:all-reduce|reduce-scatter)", hlo))
    assert columns == {str(WIDTH // 4)}
