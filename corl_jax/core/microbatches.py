"""Micro-batches: equal parts of a batch, which a program goes through one after another.

Pytrees go in whose arrays have a leading row axis; leaves may be None.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from corl_jax.core.errors import UserError


def check_rows(batch: Any, microbatches: int) -> None:
    """Raises UserError naming the first leaf of ``batch`` whose rows do not divide."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        if leaf.ndim == 0 or leaf.shape[0] % microbatches:
            raise UserError(
                f"batch{jax.tree_util.keystr(path)} of shape {tuple(leaf.shape)} must divide into "
                f"{microbatches} micro-batches; choose a number that divides its rows"
            )


def split_rows(batch: Any, microbatches: int) -> Any:
    """Every leaf ``[N, ...]`` as ``[microbatches, N / microbatches, ...]``.

    Micro-batch ``i`` takes the rows ``i, i + microbatches, ...``: with such a stride each one is
    spread over the devices like the whole batch, without moving data.
    """

    def split(leaf: jax.Array) -> jax.Array:
        rows = leaf.shape[0] // microbatches
        return jnp.swapaxes(leaf.reshape(rows, microbatches, *leaf.shape[1:]), 0, 1)

    return jax.tree.map(split, batch)


def join_rows(parts: Any) -> Any:
    """The inverse of ``split_rows``."""

    def join(leaf: jax.Array) -> jax.Array:
        return jnp.swapaxes(leaf, 0, 1).reshape(-1, *leaf.shape[2:])

    return jax.tree.map(join, parts)
