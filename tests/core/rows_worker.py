"""One of two processes whose devices alternate along the mesh, as the chips of hosts do in a TPU slice:
``python rows_worker.py COORDINATOR PROCESS``."""

from __future__ import annotations

import sys

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from corl_jax.core.processes import DistributedConfig, connect_processes
from corl_jax.core.sharding import AXES, Sharder, to_host


def main(coordinator: str, process: str) -> None:
    connect_processes(DistributedConfig(coordinator, 2, int(process)))
    first, second = ([d for d in jax.devices() if d.process_index == p] for p in (0, 1))
    order = np.array([first[0], second[0], first[1], second[1]]).reshape(2, 2, 1)
    sharder = Sharder(Mesh(order, AXES, axis_types=(AxisType.Auto,) * len(AXES)))
    rows = np.arange(24.0).reshape(8, 3)
    mine = list(sharder.local_row_ids(8))
    assert mine == [[0, 1, 4, 5], [2, 3, 6, 7]][int(process)], mine
    placed = sharder.put_batch(rows[mine])
    np.testing.assert_array_equal(to_host(placed), rows)
    np.testing.assert_array_equal(sharder.local_rows(placed), rows[mine])
    np.testing.assert_array_equal(sharder.all_gather_rows(rows[mine]), rows)
    doubled = jax.jit(lambda x: 2 * x)(placed)
    np.testing.assert_array_equal(sharder.local_rows(doubled), 2 * rows[mine])
    print("equal")


if __name__ == "__main__":
    main(*sys.argv[1:])
