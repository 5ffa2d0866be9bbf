"""Fewer prompts than devices: each prompt is repeated, so that every device reads the prompts of
its own samples, and the step equals that of one device."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import without_times

from corl_jax.core.sharding import Sharder, make_mesh

FEW_PROMPTS = {
    "image": "rounded_redness",
    "rl.rollout.image_prompts": 4,
    "rl.rollout.text_prompts": 2,
    "rl.rollout.group_size": 4,
    "mesh.data": 1,
}


def test_repeats_spread_prompts_over_devices():
    """Of (prompts, group size) on eight devices, with and without micro-batches."""
    sharder = Sharder(make_mesh({"data": 2, "fsdp": 4}))
    shapes = [(2, 8), (4, 2), (8, 1), (16, 3), (3, 8), (2, 6)]
    assert [sharder.prompt_repeats(*shape) for shape in shapes] == [4, 2, 1, 1, 8, 1]

    # Where half of a batch does not divide over the devices, all of it does if it can.
    shapes = [(2, 8), (8, 4), (8, 1), (16, 3), (4, 2)]
    repeats = [sharder.prompt_repeats(*shape, microbatches=2) for shape in shapes]
    assert repeats == [8, 2, 1, 1, 2]


@pytest.fixture(scope="module")
def steps(take_step):
    """First steps on one device and on eight."""
    return [take_step(devices, **FEW_PROMPTS | {"mesh.fsdp": devices}) for devices in (1, 8)]


def test_few_prompts_train_as_on_one_device(steps):
    for task, rows in (("image", (8, 2)), ("text", (8, 1))):
        expected, sharded = (step.batches[0][task] for step in steps)
        assert sharded.tokens.shape[:2] == rows
        assert sharded.tokens.addressable_shards[0].data.shape[0] == 1

        # The same samples, in rows of fewer.
        repeats = rows[0] // len(expected.tokens)
        repeated_tokens = np.repeat(expected.prompts.tokens, repeats, 0)
        np.testing.assert_array_equal(sharded.prompts.tokens, repeated_tokens)
        np.testing.assert_array_equal(np.ravel(sharded.tokens), np.ravel(expected.tokens))
        np.testing.assert_allclose(
            np.ravel(sharded.advantages), np.ravel(expected.advantages), atol=2e-3
        )
        np.testing.assert_allclose(np.ravel(sharded.weights), np.ravel(expected.weights), rtol=1e-6)

    for name, value in without_times(steps[0].host_metrics).items():
        assert steps[1].host_metrics[name] == pytest.approx(value, abs=2e-3), name
    (expected_state, (expected_metrics,)), (state, (metrics,)) = (step.run() for step in steps)
    for name, value in expected_metrics.items():
        assert metrics[name] == pytest.approx(value, rel=2e-3, abs=2e-3), name
    for path, leaf in expected_state.trainable.items():
        np.testing.assert_allclose(state.trainable[path], leaf, atol=2e-4, err_msg=path)
