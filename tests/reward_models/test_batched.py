"""How many rows a call of a reward model takes, and that what comes back are the rows that went in."""

import jax
import numpy as np
import pytest

from corl_jax.core.sharding import Sharder, make_mesh
from corl_jax.reward_models.batched import EACH, ROWS, global_rows, map_in_batches


@pytest.mark.parametrize("shards", [1, 3, 8, 32, 256])
def test_a_call_divides_over_the_devices_and_is_large_enough(shards):
    size = global_rows(shards)
    assert size % shards == 0 and size >= ROWS and size // shards >= EACH
    assert size - shards < max(ROWS, EACH * shards)  # and no larger than that needs


@pytest.mark.parametrize("count", [1, 15, 16, 37])
def test_rows_come_back_in_order_on_eight_devices(count):
    sharder, seen = Sharder(make_mesh({"fsdp": 8})), set()
    double = jax.jit(lambda rows: 2 * rows)

    def run(rows):
        seen.add(rows.shape[0])
        return double(rows)

    np.testing.assert_array_equal(
        map_in_batches(sharder, run, [np.arange(count)]), 2 * np.arange(count)
    )
    assert seen == {global_rows(8)}
