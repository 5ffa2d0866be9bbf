"""Fewer prompts than devices: each is repeated, so that every device reads those of its own samples, and a step is the
step of one device."""

from __future__ import annotations

import numpy as np
import pytest

from corl_jax.core.sharding import Sharder, make_mesh

FEW = {"rl.pictures": 4, "rl.questions": 2, "rl.group": 4, "mesh.data": 1}


def test_copies_divide_prompts_over_devices():
    sharder = Sharder(make_mesh({"data": 2, "fsdp": 4}))
    found = [
        sharder.prompt_repeats(*shape)
        for shape in ((2, 8), (4, 2), (8, 1), (16, 3), (3, 8), (2, 6))
    ]
    assert found == [4, 2, 1, 1, 8, 1]
    in_two = [
        sharder.prompt_repeats(*shape, parts=2)
        for shape in ((2, 8), (8, 4), (8, 1), (16, 3), (4, 2))
    ]
    assert in_two == [8, 2, 1, 1, 2]  # where a half does not divide, the whole does if it can


@pytest.fixture(scope="module")
def steps(take_step):
    return [take_step(devices, **FEW | {"mesh.fsdp": devices}) for devices in (1, 8)]


def test_few_prompts_train_as_on_one_device(steps):
    alone, spread = (step.batches[0] for step in steps)
    for task, rows in (("image", (8, 2)), ("text", (8, 1))):
        one, many = alone[task], spread[task]
        assert (
            many.tokens.shape[:2] == rows and many.tokens.addressable_shards[0].data.shape[0] == 1
        )
        times = rows[0] // len(one.tokens)
        np.testing.assert_array_equal(many.prompts.tokens, np.repeat(one.prompts.tokens, times, 0))
        np.testing.assert_array_equal(np.ravel(many.tokens), np.ravel(one.tokens))
        np.testing.assert_allclose(np.ravel(many.advantages), np.ravel(one.advantages), atol=2e-3)
        np.testing.assert_allclose(np.ravel(many.weights), np.ravel(one.weights), rtol=1e-6)
    for name, value in steps[0].host.items():
        assert steps[1].host[name] == pytest.approx(value, abs=2e-3), name
    (one, (said,)), (many, (also_said,)) = (step.run() for step in steps)
    for name, value in said.items():
        assert also_said[name] == pytest.approx(value, rel=2e-3, abs=2e-3), name
    for path, leaf in one.trainable.items():
        np.testing.assert_allclose(many.trainable[path], leaf, atol=2e-4, err_msg=path)
