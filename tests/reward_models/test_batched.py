"""How many rows one call of a reward model has, and that results come back in order."""

import jax
import numpy as np
import pytest

from corl_jax.core.sharding import Sharder, make_mesh
from corl_jax.reward_models.batched import (
    MIN_ROWS_PER_CALL,
    MIN_ROWS_PER_DEVICE,
    global_rows,
    map_in_batches,
)


@pytest.mark.parametrize("shards", [1, 3, 8, 32, 256])
def test_a_call_divides_over_the_devices_and_is_large_enough(shards):
    rows = global_rows(shards)
    assert rows % shards == 0
    assert rows >= MIN_ROWS_PER_CALL and rows // shards >= MIN_ROWS_PER_DEVICE
    # It is no larger than that requires.
    assert rows - shards < max(MIN_ROWS_PER_CALL, MIN_ROWS_PER_DEVICE * shards)


@pytest.mark.parametrize("count", [1, 15, 16, 37])
def test_rows_come_back_in_order_on_eight_devices(count):
    sharder = Sharder(make_mesh({"fsdp": 8}))
    rows_per_call = set()
    double = jax.jit(lambda rows: 2 * rows)

    def run(rows):
        rows_per_call.add(rows.shape[0])
        return double(rows)

    np.testing.assert_array_equal(
        map_in_batches(sharder, run, [np.arange(count)]), 2 * np.arange(count)
    )
    assert rows_per_call == {global_rows(8)}
