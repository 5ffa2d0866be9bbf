"""One of two processes whose devices alternate along the mesh, as on a TPU slice of several hosts.

Usage: ``python rows_worker.py COORDINATOR PROCESS``. It prints "equal" at the end.
"""

from __future__ import annotations

import sys

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from corl_jax.core.processes.connection import DistributedConfig, connect_processes
from corl_jax.core.sharding import AXES, Sharder, to_host


def main(coordinator: str, process: str) -> None:
    connect_processes(DistributedConfig(coordinator, 2, int(process)))
    first, second = ([d for d in jax.devices() if d.process_index == p] for p in (0, 1))
    order = np.array([first[0], second[0], first[1], second[1]]).reshape(2, 2, 1)
    sharder = Sharder(Mesh(order, AXES, axis_types=(AxisType.Auto,) * len(AXES)))
    rows = np.arange(24.0).reshape(8, 3)

    # This process has the rows of its devices, which are not contiguous.
    local_ids = list(sharder.local_row_ids(8))
    assert local_ids == [[0, 1, 4, 5], [2, 3, 6, 7]][int(process)], local_ids

    batch = sharder.put_batch(rows[local_ids])
    np.testing.assert_array_equal(to_host(batch), rows)
    np.testing.assert_array_equal(sharder.local_rows(batch), rows[local_ids])
    np.testing.assert_array_equal(sharder.all_gather_rows(rows[local_ids]), rows)
    doubled = jax.jit(lambda x: 2 * x)(batch)
    np.testing.assert_array_equal(sharder.local_rows(doubled), 2 * rows[local_ids])
    print("equal")


if __name__ == "__main__":
    main(*sys.argv[1:])
