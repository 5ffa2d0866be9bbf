"""Named random streams: a key is a pure function of (seed, name, step, sample id).

Random numbers therefore depend neither on the mesh, nor on the layout of the batch, nor on how
often the program was restarted.
"""

from __future__ import annotations

import zlib

import jax
import jax.numpy as jnp
import numpy as np


def stream(seed: int, name: str, step: int | jax.Array = 0) -> jax.Array:
    """Key of the random stream ``name`` at ``step``."""
    # CRC32 and not ``hash``, which Python salts anew in every process.
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
    return jax.random.fold_in(key, step)


def sample_keys(key: jax.Array, samples: int | np.ndarray | jax.Array) -> jax.Array:
    """One key per sample id.

    Args:
      key: of a stream.
      samples: a count, for the ids 0, 1, ..., or an int array of ids.
    """
    ids = jnp.arange(samples) if isinstance(samples, int) else jnp.asarray(samples)
    # Each key depends on its id alone, so a sample is the same in any batch and on any mesh.
    return jax.vmap(lambda sample_id: jax.random.fold_in(key, sample_id))(ids)
