"""Named random streams: a key is a pure function of (seed, name, step, sample id).

Nothing depends on the mesh, on the batch layout or on how often the program was restarted.
"""

from __future__ import annotations

import zlib

import jax
import jax.numpy as jnp


def stream(seed: int, name: str, step: int | jax.Array = 0) -> jax.Array:
    """Key of the stream ``name`` at ``step``."""
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
    return jax.random.fold_in(key, step)


def sample_keys(key: jax.Array, samples: int | jax.Array) -> jax.Array:
    """One key per sample id: ``samples`` is a count (ids 0, 1, ...) or an int array of ids."""
    ids = jnp.arange(samples) if isinstance(samples, int) else samples
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(ids)
