"""Runs any number of rows through a program that is compiled for one fixed number of rows.

In: host arrays with the same number of rows. Out: NumPy results, one per row and in order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np

from corl_jax.core.processes.agreement import check_failures
from corl_jax.core.sharding import Sharder, sharding_context

MIN_ROWS_PER_CALL = 16
"""A call has at least this many rows over all devices, so that few rows compile no program of their
own."""

MIN_ROWS_PER_DEVICE, MAX_ROWS_PER_DEVICE = 2, 16
"""Rows of a call on each device. Every call reads the weights: with 16 rows instead of 2 the rewards
of 1B on a ``v5e:2x4`` take half the time (docs/planning.md). More of them need more memory."""


def global_rows(shards: int, rows: int) -> int:
    """Rows of one call over all processes.

    Args:
      shards: devices over which rows are divided.
      rows: that there are, over all processes; more than a call may have take several calls.

    Returns:
      a multiple of ``shards``, on each of which there are a power of two, so that other numbers of
      rows compile few programs.
    """
    smallest = max(-(-MIN_ROWS_PER_CALL // shards), MIN_ROWS_PER_DEVICE)
    needed = 1 << (max(-(-rows // shards), 1) - 1).bit_length()
    return shards * max(smallest, min(needed, MAX_ROWS_PER_DEVICE))


def map_in_batches(
    sharder: Sharder, program: Callable[..., jax.Array], columns: Sequence[np.ndarray]
) -> np.ndarray:
    """Runs ``program`` over all rows, the same number of rows in every call.

    Args:
      sharder: the mesh of the run.
      program: a jitted function from arrays on the mesh to one result per row.
      columns: host arrays with the same ``N`` rows. With several processes these are the rows of
        this process, and all processes must call with equally many.

    Returns:
      ``N`` results, in the order of the rows.
    """
    # All processes compute together, so none may be missing.
    check_failures()
    row_count = len(columns[0])
    all_rows = row_count * jax.process_count()
    rows_per_call = len(sharder.local_row_ids(global_rows(sharder.batch_shards, all_rows)))
    dispatched: list[jax.Array] = []

    # The program is traced in the first call, and its sharding constraints need the mesh.
    with sharding_context(sharder):
        for start in range(0, row_count, rows_per_call):
            # The last call repeats the last row, so that all calls have one shape and one program.
            row_ids = np.minimum(np.arange(start, start + rows_per_call), row_count - 1)
            batch = sharder.put_batch([column[row_ids] for column in columns])
            dispatched.append(program(*batch))

    # Results are read once all calls are under way. The repeated rows are cut off again.
    results = [sharder.local_rows(result) for result in dispatched]
    return np.concatenate(results)[:row_count] if results else np.zeros(0, np.float32)
