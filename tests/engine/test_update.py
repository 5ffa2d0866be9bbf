"""The jitted update: gradients over micro-batches, donation, shardings, and what it reports."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import apply_update

from corl_jax.core.errors import UserError
from corl_jax.core.microbatches import join_rows, split_rows
from corl_jax.core.numerics import Weighted
from corl_jax.core.sharding import Sharder, make_mesh
from corl_jax.engine.optim import OptimConfig, make_optimizer
from corl_jax.engine.state import abstract, create_state
from corl_jax.engine.update import make_update

OPTIMIZER = make_optimizer(OptimConfig(0.01, 10, weight_decay=0.1))


def loss(params, batch, algo):
    """Two tasks with different row counts; weights carry the normalization."""
    total, errors = 0.0, []
    for part in batch.values():
        error = (jnp.tanh(part["x"] @ params["w"]) @ params["frozen"] - part["y"]) ** 2
        total = total + algo["coef"] * jnp.sum(error * part["weights"])
        errors.append(Weighted(jnp.sum(error), jnp.asarray(error.size, error.dtype)))
    return total, {"error": sum(errors[1:], errors[0])}


def update_algo_state(algo, metrics):
    return {"coef": algo["coef"] + 0.5 * metrics["error"].value}


def keep_algo_state(algo, metrics):
    return algo


def state_and_batch(dtype=jnp.float32, put=lambda leaf: leaf):
    """A state and a batch of both tasks, each leaf on the device through ``put``."""
    rng = np.random.default_rng(0)

    def array(*shape):
        return put(jnp.asarray(rng.standard_normal(shape), dtype))

    state = create_state(
        {"w": array(4, 8)}, {"frozen": array(8)}, OPTIMIZER, {"coef": jnp.asarray(1.0, dtype)}
    )
    batch = {
        task: {"x": array(rows, 4), "y": array(rows), "weights": abs(array(rows)), "images": None}
        for task, rows in (("draw", 16), ("ask", 32))
    }
    return state, batch


def run(microbatches, dtype=jnp.float32, steps=3):
    """State and metrics after ``steps`` updates, and the update."""
    state, batch = state_and_batch(dtype)
    update = make_update(loss, update_algo_state, OPTIMIZER, microbatches, state)
    for _ in range(steps):
        state, metrics = apply_update(update, state, batch)
    return state, metrics, update


@pytest.mark.parametrize("microbatches", [2, 8])
def test_microbatches_equal_one_batch(microbatches):
    with jax.enable_x64(True):
        whole, whole_metrics, _ = run(1, jnp.float64)
        parts, part_metrics, _ = run(microbatches, jnp.float64)
        assert whole.params["w"].dtype == jnp.float64
        np.testing.assert_allclose(parts.params["w"], whole.params["w"], rtol=1e-12)
        np.testing.assert_allclose(parts.algo["coef"], whole.algo["coef"], rtol=1e-12)
        for name, metric in whole_metrics.items():
            np.testing.assert_allclose(part_metrics[name].value, metric.value, rtol=1e-6)


def test_split_rows_keeps_every_row_once_and_names_what_does_not_divide():
    split = split_rows({"a": jnp.arange(12).reshape(6, 2), "b": None}, 3)
    assert split["a"].shape == (3, 2, 2) and sorted(split["a"].ravel().tolist()) == list(range(12))
    np.testing.assert_array_equal(join_rows(split)["a"], jnp.arange(12).reshape(6, 2))
    state, batch = state_and_batch()
    update = make_update(loss, update_algo_state, OPTIMIZER, 5, state)
    with pytest.raises(UserError, match=r"'ask'.*\(32,.*5 micro-batches"):
        apply_update(update, state, batch)
    with pytest.raises(UserError, match="microbatches must be at least 1; got 0"):
        make_update(loss, update_algo_state, OPTIMIZER, 0, state)


def test_compiled_once():
    _, _, update = run(2, steps=4)
    assert update._cache_size() == 1


def test_frozen_stays_and_algo_and_step_move():
    start, _ = state_and_batch()
    frozen = np.asarray(start.frozen["frozen"])
    state, metrics, _ = run(1, steps=3)
    np.testing.assert_array_equal(state.frozen["frozen"], frozen)
    assert int(state.step) == 3 and float(state.algo["coef"]) > 1
    assert set(metrics) == {
        "loss",
        "grad_norm",
        "update_norm",
        "param_norm",
        "learning_rate",
        "skipped_updates",
        "error",
    }


def test_state_is_donated_but_frozen_is_not():
    state, batch = state_and_batch()
    apply_update(make_update(loss, update_algo_state, OPTIMIZER, 1, state), state, batch)
    assert state.trainable["w"].is_deleted() and not state.frozen["frozen"].is_deleted()


def test_scheduled_rate_follows_the_step_of_the_state():
    optimizer = make_optimizer(OptimConfig(1.0, 10, schedule="linear"))
    state, batch = state_and_batch()
    update = make_update(loss, update_algo_state, optimizer, 1, state)
    rates = []
    for _ in range(3):
        state, metrics = apply_update(update, state, batch)
        rates.append(round(float(metrics["learning_rate"].value), 6))
    assert rates == [1.0, 0.9, 0.8]


def test_sharded_equals_single_device_and_keeps_its_shardings():
    sharder = Sharder(make_mesh({"data": -1}))
    single, _, _ = run(2)
    state, batch = state_and_batch(put=lambda leaf: jax.device_put(leaf, sharder.named_sharding()))
    batch = sharder.put_batch(batch)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract(state))
    update = make_update(loss, update_algo_state, OPTIMIZER, 2, state)
    for _ in range(3):
        state, _ = apply_update(update, state, batch)
    np.testing.assert_allclose(state.params["w"], single.params["w"], rtol=1e-5)
    assert shardings == jax.tree.map(lambda leaf: leaf.sharding, abstract(state))
    assert update._cache_size() == 1


def test_metric_names_of_the_update_are_refused():
    state, batch = state_and_batch()
    update = make_update(
        lambda params, batch, algo: (jnp.sum(params["w"]), {"loss": Weighted.of(1.0)}),
        update_algo_state,
        OPTIMIZER,
        1,
        state,
    )
    with pytest.raises(ValueError, match="loss"):
        apply_update(update, state, batch)


def test_a_path_cannot_be_trained_and_frozen():
    with pytest.raises(ValueError, match="'w'"):
        create_state({"w": jnp.ones(2)}, {"w": jnp.ones(2)}, OPTIMIZER)


def test_parameters_in_bfloat16_move_only_by_what_they_can_hold():
    """At CoRL's learning rate a twelfth of common weights, and none near 1; in float32 all of them."""
    rng, learning_rate = np.random.default_rng(0), 4e-6
    optimizer = make_optimizer(OptimConfig(learning_rate, 10))
    values = {
        "w": rng.normal(0, 0.02, 20000).astype(np.float32),
        "norm": rng.uniform(0.9, 1.1, 200).astype(np.float32),
    }
    slopes = {
        path: np.sign(rng.normal(size=leaf.shape)).astype(np.float32)
        for path, leaf in values.items()
    }

    def linear_loss(params, batch, algo):
        return sum(jnp.sum(params[path] * batch[path]) for path in params), {}

    share_moved = {}
    for dtype in (jnp.bfloat16, jnp.float32):
        params = {path: jnp.asarray(leaf, dtype) for path, leaf in values.items()}
        start = {path: np.asarray(leaf) for path, leaf in params.items()}
        state = create_state(params, {}, optimizer)
        update = make_update(linear_loss, keep_algo_state, optimizer, 1, state)
        state, _ = apply_update(update, state, slopes)
        assert all(leaf.dtype == dtype for leaf in state.trainable.values())
        moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
        assert {leaf.dtype for leaf in moments} == {jnp.dtype("float32")}
        share_moved[dtype] = {
            path: np.mean(start[path] != np.asarray(leaf)) for path, leaf in state.trainable.items()
        }
    in_bfloat16, in_float32 = share_moved[jnp.bfloat16], share_moved[jnp.float32]
    assert 0.05 < in_bfloat16["w"] < 0.12 and in_bfloat16["norm"] == 0
    assert in_float32["w"] > 0.999 and in_float32["norm"] > 0.999
