"""Long lists in calls of one shape. In: how many prompts; out: the rows of every call, and keys.

A key is folded from (seed, name, prompt, sample), so what is sampled does not depend on the batch a prompt falls into.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from corl_jax.core.rng import sample_keys, stream
from corl_jax.core.types import Prompts


def batch_size(prompts: int, most: int) -> int:
    """Prompts per call: a power of two that holds them all, but at most ``most``."""
    return max(1, min(1 << (prompts - 1).bit_length(), most))


def batch_rows(prompts: int, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Rows of every call: int ``[size]``, of which the first ``real`` count; the last call repeats the last prompt."""
    for start in range(0, prompts, size):
        yield np.minimum(np.arange(start, start + size), prompts - 1), min(size, prompts - start)


def prompt_keys(seed: int, name: str, rows: np.ndarray, samples: int) -> jax.Array:
    """Keys ``[B, G]`` of the stream ``name`` for the prompts numbered ``rows``."""
    return jax.vmap(lambda row: sample_keys(stream(seed, name, row), samples))(jnp.asarray(rows))


def take(prompts: Prompts, rows: np.ndarray) -> Prompts:
    """Some rows of ``prompts``."""

    def pick(leaf: Any) -> Any:
        return None if leaf is None else leaf[rows]

    return Prompts(pick(prompts.tokens), pick(prompts.mask), pick(prompts.images))
