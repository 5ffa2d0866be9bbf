import jax.numpy as jnp
import numpy as np
import optax
import pytest

from corl_jax.core.errors import UserError
from corl_jax.engine.optim import OptimConfig, decay_mask, make_optimizer, make_schedule


def rates(steps, **fields):
    schedule = make_schedule(OptimConfig(learning_rate=1.0, total_steps=10, **fields))
    return [float(schedule(jnp.asarray(step))) for step in steps]


def test_schedules_by_value():
    assert rates([0, 5, 99]) == [1, 1, 1]
    np.testing.assert_allclose(rates([0, 5, 10, 12], schedule="linear"), [1, 0.5, 0, 0])
    np.testing.assert_allclose(rates([0, 5, 10], schedule="cosine", final_fraction=0.1), [1, 0.55, 0.1], rtol=1e-6)
    np.testing.assert_allclose(rates([0, 1, 2, 3, 4, 7, 10], warmup_steps=4, schedule="linear"),
                               [0.25, 0.5, 0.75, 1, 1, 0.5, 0], rtol=1e-6)  # fmt: skip
    assert rates([0, 1], warmup_steps=1) == [1, 1]


def test_bad_configs_are_named():
    with pytest.raises(UserError, match="'cosin'.*constant, cosine, linear"):
        make_schedule(OptimConfig(1.0, 10, schedule="cosin"))
    with pytest.raises(UserError, match="warmup_steps=10"):
        make_schedule(OptimConfig(1.0, 10, warmup_steps=10, schedule="linear"))
    with pytest.raises(UserError, match="clip_norm=-1"):
        make_optimizer(OptimConfig(1.0, 10, clip_norm=-1))


def test_decay_touches_matrices_only():
    params = {"a/kernel": jnp.ones((2, 3)), "a/bias": jnp.ones(3), "layers/norm/scale": jnp.ones((4, 3))}
    assert decay_mask(params, OptimConfig(1, 1).no_decay) == {
        "a/kernel": True, "a/bias": False, "layers/norm/scale": False}  # fmt: skip
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
    wide = {"kernel": params["kernel"].astype(jnp.float32)}
    reference = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1, weight_decay=0.01))
    expected, _ = reference.update({"kernel": jnp.asarray([[3.0, 4.0]])}, reference.init(wide), wide)
    np.testing.assert_allclose(-0.1 * direction["kernel"], expected["kernel"], rtol=1e-6)
