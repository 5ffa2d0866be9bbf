"""A reference policy that follows the policy: by hand, in an update, and through a checkpoint."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_stage import ToyStage, run, start

from corl_jax.core.numerics import Weighted
from corl_jax.engine.optim import OptimConfig, make_optimizer
from corl_jax.engine.reference_policy import ReferencePolicy
from corl_jax.engine.state import create_state
from corl_jax.engine.update import make_update


def test_by_hand():
    old, new = {"w": jnp.asarray([1.0, 2.0])}, {"w": jnp.asarray([5.0, -2.0])}
    reference = ReferencePolicy(old, 3, 0.25)
    np.testing.assert_array_equal(reference.follow(new, 2).params["w"], [1, 2])
    np.testing.assert_array_equal(reference.follow(new, 3).params["w"], [2, 1])
    assert reference.follow(new, 3).every == 3

    # The dtype of the reference stays, and the mean is exact in it.
    old, new = (
        {"w": jnp.asarray([1.0], jnp.bfloat16)},
        {"w": jnp.asarray([2.0], jnp.bfloat16)},
    )
    params = ReferencePolicy(old, 1, 0.5).follow(new, 1).params
    assert params["w"].dtype == jnp.bfloat16 and float(params["w"][0]) == 1.5


@pytest.mark.parametrize("mix", [1.0, 0.5])
def test_inside_the_update_it_moves_every_second_time(mix):
    optimizer = make_optimizer(OptimConfig(0.1, 10))
    params = {"w": jnp.arange(3.0)}
    reference = ReferencePolicy(jax.tree.map(jnp.copy, params), every=2, mix=mix)
    state = create_state(params, {}, optimizer, reference=reference)
    traces = []

    def loss(params, batch, algo):
        traces.append(1)
        return jnp.sum(params["w"] * batch), {"x": Weighted.of(1.0)}

    update = make_update(loss, lambda algo, metrics: algo, optimizer, 1, state)
    policies, references = [np.arange(3.0)], [np.arange(3.0)]
    for _ in range(4):
        state, _ = update(state, {}, jnp.ones(3))
        policies.append(np.asarray(state.trainable["w"]))
        references.append(np.asarray(state.reference.params["w"]))

    np.testing.assert_array_equal(references[1], references[0])
    expected = mix * policies[2] + (1 - mix) * references[0]
    np.testing.assert_allclose(references[2], expected, rtol=1e-6)
    np.testing.assert_array_equal(references[3], references[2])
    expected = mix * policies[4] + (1 - mix) * expected
    np.testing.assert_allclose(references[4], expected, rtol=1e-6)
    assert len(traces) == 1


class StageWithReference(ToyStage):
    """The toy stage with a reference policy, whose bias is noted before every step."""

    def init_state(self):
        state = super().init_state()
        params = jax.tree.map(jnp.copy, state.trainable)
        return dataclasses.replace(state, reference=ReferencePolicy(params, 3, 0.5))

    def batches(self, state, raw, step):
        self.seen.append((step, float(state.reference.params["head/bias"][0])))
        yield from super().batches(state, raw, step)


def test_it_survives_a_checkpoint_bit_for_bit(tmp_path):
    uninterrupted, first, second = StageWithReference(), StageWithReference(), StageWithReference()
    run(tmp_path / "uninterrupted", 8, uninterrupted)

    # Six steps, of which four are saved; then the remaining ones.
    results = start(tmp_path / "interrupted", 8, first)
    assert [next(results).step for _ in range(6)] == [1, 2, 3, 4, 5, 6]
    results.close()
    run(tmp_path / "interrupted", 8, second)

    # Each step notes the reference's bias first and the toy's data second.
    def biases(stage):
        return dict(stage.seen[::2])

    assert biases(first) | biases(second) == biases(uninterrupted)
    assert len(set(biases(uninterrupted).values())) == 3 and min(biases(second)) == 4
