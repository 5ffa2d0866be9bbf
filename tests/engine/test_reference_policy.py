"""A reference that follows: by hand, inside an update, and through a checkpoint."""

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
    follower = ReferencePolicy(old, 3, 0.25)
    np.testing.assert_array_equal(follower.after(new, 2).params["w"], [1, 2])
    np.testing.assert_array_equal(follower.after(new, 3).params["w"], [2, 1])
    assert follower.after(new, 3).every == 3
    narrow = ReferencePolicy({"w": jnp.asarray([1.0], jnp.bfloat16)}, 1, 0.5).after(
        {"w": jnp.asarray([2.0], jnp.bfloat16)}, 1
    )
    assert narrow.params["w"].dtype == jnp.bfloat16 and float(narrow.params["w"][0]) == 1.5


@pytest.mark.parametrize("mix", [1.0, 0.5])
def test_inside_the_update_it_moves_every_second_time(mix):
    optimizer = make_optimizer(OptimConfig(0.1, 10))
    start = {"w": jnp.arange(3.0)}
    state = create_state(
        start,
        {},
        optimizer,
        reference=ReferencePolicy(jax.tree.map(jnp.copy, start), every=2, mix=mix),
    )
    update = make_update(
        lambda p, b, a: (jnp.sum(p["w"] * b), {"x": Weighted.of(1.0)}), lambda a, m: a, optimizer
    )
    seen, batch = [np.arange(3.0)], jnp.ones(3)
    for _ in range(4):
        state, _ = update(state, batch)
        seen.append((np.asarray(state.trainable["w"]), np.asarray(state.reference.params["w"])))
    np.testing.assert_array_equal(seen[1][1], seen[0])
    after_two = mix * seen[2][0] + (1 - mix) * seen[0]
    np.testing.assert_allclose(seen[2][1], after_two, rtol=1e-6)
    np.testing.assert_array_equal(seen[3][1], seen[2][1])
    np.testing.assert_allclose(seen[4][1], mix * seen[4][0] + (1 - mix) * after_two, rtol=1e-6)
    assert update.trace_count == 1


class Followed(ToyStage):
    """The toy with a reference, whose bias is seen before every step."""

    def init(self):
        state = super().init()
        return dataclasses.replace(
            state, reference=ReferencePolicy(jax.tree.map(jnp.copy, state.trainable), 3, 0.5)
        )

    def batches(self, state, raw, step):
        self.seen.append((step, float(state.reference.params["head/bias"][0])))
        yield from super().batches(state, raw, step)


def test_it_survives_a_checkpoint_bit_for_bit(tmp_path):
    whole, first, second = Followed(), Followed(), Followed()
    run(tmp_path / "whole", 8, whole)
    going = start(tmp_path / "parts", 8, first)
    assert [next(going).step for _ in range(6)] == [1, 2, 3, 4, 5, 6]
    going.close()  # of which 4 are saved
    run(tmp_path / "parts", 8, second)
    of_reference = lambda stage: dict(stage.seen[::2])  # noqa: E731
    assert of_reference(first) | of_reference(second) == of_reference(whole)
    assert len(set(of_reference(whole).values())) == 3 and min(of_reference(second)) == 4
