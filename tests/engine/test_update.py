import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corl_jax.core.errors import UserError
from corl_jax.core.numerics import Weighted
from corl_jax.core.sharding import Sharder, make_mesh
from corl_jax.engine.optim import OptimConfig, make_optimizer
from corl_jax.engine.state import abstract, create_state
from corl_jax.engine.update import make_update, split_rows

OPTIMIZER = make_optimizer(OptimConfig(0.01, 10, weight_decay=0.1))


def loss(params, batch, algo):
    """Two tasks with different row counts; weights carry the normalisation."""
    total, seen = 0.0, []
    for part in batch.values():
        error = (jnp.tanh(part["x"] @ params["w"]) @ params["frozen"] - part["y"]) ** 2
        total = total + algo["coef"] * jnp.sum(error * part["weights"])
        seen.append(Weighted(jnp.sum(error), jnp.asarray(error.size, error.dtype)))
    return total, {"error": sum(seen[1:], seen[0])}


def after(algo, metrics):
    return {"coef": algo["coef"] + 0.5 * metrics["error"].value}


def make(dtype=jnp.float32, put=lambda leaf: leaf):
    rng = np.random.default_rng(0)
    array = lambda *shape: put(jnp.asarray(rng.standard_normal(shape), dtype))  # noqa: E731
    state = create_state(
        {"w": array(4, 8)}, {"frozen": array(8)}, OPTIMIZER, {"coef": jnp.asarray(1.0, dtype)}
    )
    batch = {
        task: {"x": array(rows, 4), "y": array(rows), "weights": abs(array(rows)), "images": None}
        for task, rows in (("draw", 16), ("ask", 32))
    }
    return state, batch


def run(microbatches, dtype=jnp.float32, steps=3):
    state, batch = make(dtype)
    update = make_update(loss, after, OPTIMIZER, microbatches)
    for _ in range(steps):
        state, metrics = update(state, batch)
    return state, metrics, update


@pytest.mark.parametrize("microbatches", [2, 8])
def test_microbatches_equal_one_batch(microbatches):
    with jax.enable_x64(True):
        one, one_metrics, _ = run(1, jnp.float64)
        many, many_metrics, _ = run(microbatches, jnp.float64)
        assert one.params["w"].dtype == jnp.float64
        np.testing.assert_allclose(many.params["w"], one.params["w"], rtol=1e-12)
        np.testing.assert_allclose(many.algo["coef"], one.algo["coef"], rtol=1e-12)
        for name in one_metrics:
            np.testing.assert_allclose(many_metrics[name].value, one_metrics[name].value, rtol=1e-6)


def test_split_rows_keeps_every_row_once_and_names_what_does_not_divide():
    split = split_rows({"a": jnp.arange(12).reshape(6, 2), "b": None}, 3)
    assert split["a"].shape == (3, 2, 2) and sorted(split["a"].ravel().tolist()) == list(range(12))
    state, batch = make()
    with pytest.raises(UserError, match=r"'ask'.*\(32,.*5 micro-batches"):
        make_update(loss, after, OPTIMIZER, 5)(state, batch)


def test_traced_and_compiled_once():
    _, _, update = run(2, steps=4)
    assert update.trace_count == 1 and update._jitted._cache_size() == 1


def test_frozen_stays_and_algo_and_step_move():
    before, _ = make()
    frozen = np.asarray(before.frozen["frozen"])
    state, metrics, _ = run(1, steps=3)
    np.testing.assert_array_equal(state.frozen["frozen"], frozen)
    assert int(state.step) == 3 and float(state.algo["coef"]) > 1
    assert {"loss", "grad_norm", "update_norm", "param_norm", "learning_rate", "error"} == set(
        metrics
    )


def test_state_is_donated_but_frozen_is_not():
    state, batch = make()
    make_update(loss, after, OPTIMIZER)(state, batch)
    assert state.trainable["w"].is_deleted() and not state.frozen["frozen"].is_deleted()


def test_scheduled_rate_follows_the_step_of_the_state():
    optimizer = make_optimizer(OptimConfig(1.0, 10, schedule="linear"))
    state, batch = make()
    state = jax.tree.map(lambda leaf: leaf, state)
    update = make_update(loss, after, optimizer)
    rates = []
    for _ in range(3):
        state, metrics = update(state, batch)
        rates.append(round(float(metrics["learning_rate"].value), 6))
    assert rates == [1.0, 0.9, 0.8]


def test_sharded_equals_single_device_and_keeps_its_placement():
    sharder = Sharder(make_mesh({"data": -1}))
    single, _, _ = run(2)
    state, batch = make(put=lambda leaf: jax.device_put(leaf, sharder.named_sharding()))
    batch = sharder.put_batch(batch)
    placement = jax.tree.map(lambda leaf: leaf.sharding, abstract(state))
    update = make_update(loss, after, OPTIMIZER, 2)
    for _ in range(3):
        state, _ = update(state, batch)
    np.testing.assert_allclose(state.params["w"], single.params["w"], rtol=1e-5)
    assert placement == jax.tree.map(lambda leaf: leaf.sharding, abstract(state))
    assert update._jitted._cache_size() == 1


def test_own_metric_names_are_refused():
    state, batch = make()
    with pytest.raises(ValueError, match="loss"):
        make_update(
            lambda p, b, a: (jnp.sum(p["w"]), {"loss": Weighted.of(1.0)}), after, OPTIMIZER
        )(state, batch)


def test_a_path_cannot_be_trained_and_frozen():
    with pytest.raises(ValueError, match="'w'"):
        create_state({"w": jnp.ones(2)}, {"w": jnp.ones(2)}, OPTIMIZER)


def test_parameters_in_bfloat16_move_only_by_what_they_can_hold():
    """At CoRL's learning rate a twelfth of common weights, and none near 1; in float32 all of them."""
    rng, rate = np.random.default_rng(0), 4e-6
    optimizer = make_optimizer(OptimConfig(rate, 10))
    start = {
        "w": rng.normal(0, 0.02, 20000).astype(np.float32),
        "norm": rng.uniform(0.9, 1.1, 200).astype(np.float32),
    }
    slope = {
        path: np.sign(rng.normal(size=leaf.shape)).astype(np.float32)
        for path, leaf in start.items()
    }
    moved = {}
    for dtype in (jnp.bfloat16, jnp.float32):
        params = {path: jnp.asarray(leaf, dtype) for path, leaf in start.items()}
        before = {path: np.asarray(leaf) for path, leaf in params.items()}
        run = make_update(
            lambda p, b, a: (sum(jnp.sum(p[k] * b[k]) for k in p), {}), lambda a, m: a, optimizer
        )
        state, _ = run(create_state(params, {}, optimizer), slope)
        assert all(leaf.dtype == dtype for leaf in state.trainable.values())
        assert {leaf.dtype for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim} == {
            jnp.dtype("float32")
        }
        moved[dtype] = {
            path: np.mean(before[path] != np.asarray(leaf))
            for path, leaf in state.trainable.items()
        }
    assert 0.05 < moved[jnp.bfloat16]["w"] < 0.12 and moved[jnp.bfloat16]["norm"] == 0
    assert moved[jnp.float32]["w"] > 0.999 and moved[jnp.float32]["norm"] > 0.999
