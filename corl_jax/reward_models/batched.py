"""Any number of rows through a program that is compiled for one. In: host rows; out: NumPy results, row by row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from corl_jax.core.sharding import Sharder, sharding_context

ROWS = 16
"""Rows of a call at least."""

EACH = 2
"""Rows of a call at least on each device: it gathers a net's weights and reads them once for all its rows."""


def global_rows(shards: int) -> int:
    """Rows of a call whose rows lie on ``shards`` devices, over which they divide."""
    return max(-(-ROWS // shards), EACH) * shards


def local_rows_per_call(sharder: Sharder) -> int:
    """Rows that this process brings to a call."""
    return len(sharder.local_row_ids(global_rows(sharder.batch_shards)))


def map_in_batches(
    sharder: Sharder, run: Callable[..., jax.Array], columns: Sequence[np.ndarray]
) -> np.ndarray:
    """``run`` over rows, always the same number at once; the last call is filled up with its own last row.

    Args:
      sharder: of the run.
      run: from arrays on the mesh to one result per row; jitted.
      columns: host arrays with the same ``N`` rows. On several processes these are this process's rows, and all
        processes call with equally many.

    Returns:
      ``N`` results, in the order of the rows.
    """
    total = len(columns[0])
    size = local_rows_per_call(sharder)
    results: list[Any] = []
    with sharding_context(sharder):
        for start in range(0, total, size):
            rows = np.minimum(np.arange(start, start + size), total - 1)
            results.append(
                sharder.local_rows(run(*sharder.put_batch([column[rows] for column in columns])))
            )
    return np.concatenate(results)[:total] if results else np.zeros(0, np.float32)
