"""How many rows one call of a reward model has, and that results come back in order."""

import jax
import numpy as np
import pytest

from corl_jax.core.sharding import Sharder, make_mesh
from corl_jax.reward_models.batched import MIN_ROWS_PER_CALL, global_rows, map_in_batches


@pytest.mark.parametrize(
    ("shards", "rows", "expected"),
    [
        (1, 3, 16),
        (1, 500, 16),
        (3, 3, 18),
        (8, 16, 16),
        (8, 100, 128),
        (8, 128, 128),
        (8, 1000, 128),
        (32, 128, 128),  # four on each device, not sixteen
        (256, 4096, 4096),
        (256, 20, 512),
    ],
)
def test_a_call_has_the_rows_that_there_are_up_to_a_limit(shards, rows, expected):
    assert global_rows(shards, rows) == expected
    assert expected % shards == 0 and expected >= MIN_ROWS_PER_CALL


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
    assert rows_per_call == {global_rows(8, count)}
