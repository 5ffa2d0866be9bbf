import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from corl_jax.core.sharding import Sharder, make_mesh
from corl_jax.engine.optim import OptimConfig, decay_mask, make_optimizer, make_schedule
from corl_jax.engine.state import create_state
from corl_jax.engine.update import make_update


def rates(steps, **fields):
    schedule = make_schedule(OptimConfig(learning_rate=1.0, total_steps=10, **fields))
    return [float(schedule(jnp.asarray(step))) for step in steps]


def test_schedules_by_value():
    assert rates([0, 5, 99]) == [1, 1, 1]
    np.testing.assert_allclose(rates([0, 5, 10, 12], schedule="linear"), [1, 0.5, 0, 0])
    np.testing.assert_allclose(
        rates([0, 5, 10], schedule="cosine", final_fraction=0.1), [1, 0.55, 0.1], rtol=1e-6
    )
    warmup_and_decay = rates([0, 1, 2, 3, 4, 7, 10], warmup_steps=4, schedule="linear")
    np.testing.assert_allclose(warmup_and_decay, [0.25, 0.5, 0.75, 1, 1, 0.5, 0], rtol=1e-6)
    assert rates([0, 1], warmup_steps=1) == [1, 1]


def test_decay_touches_matrices_only():
    params = {
        "a/kernel": jnp.ones((2, 3)),
        "a/bias": jnp.ones(3),
        "layers/norm/scale": jnp.ones((4, 3)),
    }
    mask = decay_mask(params, OptimConfig(1, 1).no_decay)
    assert mask == {"a/kernel": True, "a/bias": False, "layers/norm/scale": False}
    optimizer = make_optimizer(OptimConfig(1.0, 10, weight_decay=0.5))
    zeros = {name: jnp.zeros_like(leaf) for name, leaf in params.items()}
    direction, _ = optimizer.direction(zeros, optimizer.init(params), params)
    assert float(direction["a/kernel"][0, 0]) == 0.5
    assert not direction["a/bias"].any() and not direction["layers/norm/scale"].any()


def test_equals_optax_adamw_and_keeps_moments_wide():
    params = {"kernel": jnp.asarray([[1.0, -2.0]], jnp.bfloat16)}
    grads = {"kernel": jnp.asarray([[3.0, 4.0]], jnp.bfloat16)}
    optimizer = make_optimizer(OptimConfig(0.1, 10, weight_decay=0.01, clip_norm=1.0))
    moments = optimizer.init(params)
    direction, _ = optimizer.direction(grads, moments, params)
    assert moments[1].mu["kernel"].dtype == moments[1].nu["kernel"].dtype == jnp.float32

    # Optax in float32 throughout.
    wide = {"kernel": params["kernel"].astype(jnp.float32)}
    adamw = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1, weight_decay=0.01))
    expected, _ = adamw.update({"kernel": jnp.asarray([[3.0, 4.0]])}, adamw.init(wide), wide)
    np.testing.assert_allclose(-0.1 * direction["kernel"], expected["kernel"], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_moments_have_the_shardings_of_their_parameters(dtype):
    """On eight devices, before and after an update; the first moment in the configured dtype."""
    sharder = Sharder(make_mesh({"data": 2, "fsdp": 2, "tensor": 2}))
    shardings = {
        "kernel": sharder.named_sharding("embed", "mlp"),
        "stack": sharder.named_sharding("layers", "mlp", "embed"),
    }
    params = {
        path: jax.device_put(jnp.ones((4, 8, 8)[-len(sharding.spec) :]), sharding)
        for path, sharding in shardings.items()
    }
    optimizer = make_optimizer(OptimConfig(0.1, 10, first_moment_dtype=dtype))

    def loss(params, batch, algo):
        return sum(leaf.sum() for leaf in params.values()) * batch, {}

    def check(state):
        adam = state.opt_state[1]
        for path, sharding in shardings.items():
            assert adam.mu[path].dtype == dtype and adam.nu[path].dtype == "float32"
            for moment in (adam.mu[path], adam.nu[path]):
                assert moment.sharding == sharding
                assert moment.addressable_shards[0].data.size == moment.size // 4

    state = create_state(params, {}, optimizer)
    check(state)
    update = make_update(loss, lambda algo, metrics: algo, optimizer, 1, state)
    state, _ = update(state, {}, jnp.ones(()))
    check(state)


def test_a_bfloat16_first_moment_follows_the_float32_one():
    """After eight updates they differ, by no more than eight bits of mantissa allow."""

    def last_direction(dtype):
        optimizer = make_optimizer(OptimConfig(0.1, 10, clip_norm=0, first_moment_dtype=dtype))
        params = {"kernel": jnp.ones((10, 10))}
        moments, keys = optimizer.init(params), jax.random.split(jax.random.key(0), 8)
        for key in keys:
            direction, moments = optimizer.direction(
                {"kernel": 1 + jax.random.normal(key, (10, 10))}, moments, params
            )
        return direction["kernel"]

    wide, short = last_direction("float32"), last_direction("bfloat16")
    assert short.dtype == jnp.float32
    assert 0 < float(jnp.abs(wide - short).max()) < 0.02 * float(jnp.abs(wide).max())
