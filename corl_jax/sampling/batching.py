"""Long lists of prompts in calls of one shape, so that one program serves them all.

A key is folded from (seed, name, prompt, sample), so what a prompt samples does not depend on the
batch that it falls into.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from corl_jax.core.rng import sample_keys, stream
from corl_jax.core.types import Prompts


def batch_size(prompts: int, largest: int) -> int:
    """Prompts per call: the power of two that holds them all, but at most ``largest``."""
    return max(1, min(1 << (prompts - 1).bit_length(), largest))


def batch_rows(prompts: int, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """The prompts of every call, and how many of them count.

    Yields:
      int ``[size]``, numbers of prompts; the last call is filled up with the last prompt, and the
      number of rows that are not such a repetition.
    """
    for start in range(0, prompts, size):
        rows = np.minimum(np.arange(start, start + size), prompts - 1)
        yield rows, min(size, prompts - start)


def prompt_keys(
    seed: int, name: str, rows: np.ndarray, samples: int | np.ndarray
) -> Key[Array, "B G"]:
    """Keys of the stream ``name`` for the prompts numbered ``rows``.

    Args:
      samples: of each prompt: a count, or their numbers.
    """
    return jax.vmap(lambda row: sample_keys(stream(seed, name, row), samples))(jnp.asarray(rows))


def take(prompts: Prompts, rows: np.ndarray) -> Prompts:
    """The prompts numbered ``rows``."""
    images = None if prompts.images is None else prompts.images[rows]
    return Prompts(prompts.tokens[rows], prompts.mask[rows], images)
