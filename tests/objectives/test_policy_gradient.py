import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from corl_jax.core.errors import UserError
from corl_jax.objectives.policy_gradient import clipped_surrogate, importance_weights

PPO = {"clip": "ppo", "epsilon_low": 0.2, "epsilon_high": 0.3}
OLD = jnp.log(jnp.asarray([0.5, 0.5, 0.5, 0.5, 0.5, 0.5]))
NEW = jnp.log(jnp.asarray([0.5, 0.8, 0.8, 0.3, 0.3, 0.55]))  # ratios 1, 1.6, 1.6, 0.6, 0.6, 1.1
A = jnp.asarray([2.0, 1.0, -1.0, 1.0, -1.0, 3.0])


def test_clipped_loss_by_hand():
    loss, ratio, active = clipped_surrogate(NEW, OLD, A, **PPO)
    np.testing.assert_allclose(ratio, [1, 1.6, 1.6, 0.6, 0.6, 1.1], rtol=1e-6)
    np.testing.assert_allclose(loss, [-2, -1.3, 1.6, -0.6, 0.8, -3.3], rtol=1e-6)
    np.testing.assert_array_equal(active, [0, 1, 0, 0, 1, 0])


def test_the_two_sided_clip_bounds_the_loss_of_a_token():
    two_sided = {**PPO, "clip": "two_sided", "ceiling": 3.0}
    ratios = jnp.asarray([4.0, 4.0, 2.0, 0.5, 0.5, 1.1])
    a = jnp.asarray([-2.0, 1.0, -1.0, -1.0, 1.0, -1.0])
    loss, _, active = clipped_surrogate(jnp.log(ratios), jnp.zeros(6), a, **two_sided)
    np.testing.assert_allclose(loss, [6, -1.3, 2, 0.8, -0.5, 1.1], rtol=1e-6)
    np.testing.assert_array_equal(active, [1, 1, 0, 1, 0, 0])
    one_sided, _, _ = clipped_surrogate(jnp.log(ratios), jnp.zeros(6), a, **PPO)
    np.testing.assert_allclose(one_sided, [8, -1.3, 2, 0.8, -0.5, 1.1], rtol=1e-6)
    grad = jax.grad(lambda x: clipped_surrogate(x, jnp.zeros(6), a, **two_sided)[0].sum())(
        jnp.log(ratios)
    )
    np.testing.assert_allclose(grad, [0, 0, 2, 0, -0.5, 1.1], rtol=1e-6)


def test_gradient_vanishes_where_the_clip_is_active_only():
    grad = jax.grad(lambda x: clipped_surrogate(x, OLD, A, **PPO)[0].sum())(NEW)
    np.testing.assert_allclose(grad, [-2, 0, 1.6, -0.6, 0, -3.3], rtol=1e-6)


def test_without_a_clip_the_ratio_is_unbounded():
    loss, _, active = clipped_surrogate(NEW, OLD, A, clip="none", epsilon_low=0.2, epsilon_high=0.2)
    np.testing.assert_allclose(loss, -np.exp(NEW - OLD) * A, rtol=1e-6)
    np.testing.assert_array_equal(active, 0)


@pytest.mark.parametrize("clip", ["ppo", "two_sided", "none"])
def test_one_update_per_rollout_has_ratio_one_and_the_policy_gradient(clip):
    settings = {**PPO, "clip": clip}
    loss, ratio, active = clipped_surrogate(NEW, None, A, **settings)
    np.testing.assert_array_equal(ratio, 1)
    np.testing.assert_array_equal(active, 0)
    np.testing.assert_allclose(loss, -A)
    grad = jax.grad(lambda x: clipped_surrogate(x, None, A, **settings)[0].sum())(NEW)
    if clip == "none":
        np.testing.assert_allclose(grad, -A)
    else:  # at ratio 1 both arms of the minimum are equal and have equal gradients
        np.testing.assert_allclose(grad, -A)
    same = jax.grad(lambda x: clipped_surrogate(x, NEW, A, **settings)[0].sum())(NEW)
    np.testing.assert_array_equal(grad, same)


@pytest.mark.parametrize("clip", ["ppo", "two_sided", "none"])
def test_losses_and_gradients_are_finite_however_far_the_policies_are(clip):
    """Without a bound the ratio is infinite from 88.8 on, and the gradient NaN."""
    log_ratios = jnp.asarray([-1e4, -100, 19.9, 20, 88.8, 100, 1e4])
    for advantage in (1.0, -1.0, 0.0):
        loss, gradient = jax.vmap(
            jax.value_and_grad(
                lambda x, a=advantage: clipped_surrogate(
                    x, jnp.zeros(()), jnp.asarray(a), **{**PPO, "clip": clip}
                )[0]
            )
        )(log_ratios)
        assert np.isfinite(loss).all() and np.isfinite(gradient).all()
    weights = importance_weights(log_ratios, jnp.zeros(7), 2.0)
    np.testing.assert_allclose(weights, [0, 0, 2, 2, 2, 2, 2], atol=1e-40)


def test_gradient_by_finite_differences(float64, rng):
    new, old, a = (jnp.asarray(rng.normal(size=(3, 5))) for _ in range(3))
    new = old + 0.7 * new
    check_grads(
        lambda x: clipped_surrogate(x, old, a, **PPO)[0].sum(), (new,), order=1, modes=("rev",)
    )


def test_old_log_probs_and_advantages_per_row_broadcast(rng):
    new, old = jnp.asarray(rng.normal(size=(2, 3, 4))), jnp.asarray(rng.normal(size=(2, 3, 4)))
    a = jnp.asarray(rng.normal(size=(2, 3)))
    loss, _, _ = clipped_surrogate(new, old, a[..., None], **PPO)
    expected, _, _ = clipped_surrogate(new, old, jnp.repeat(a[..., None], 4, -1), **PPO)
    np.testing.assert_array_equal(loss, expected)
    grad = jax.grad(lambda o: clipped_surrogate(new, o, a[..., None], **PPO)[0].sum())(old)
    assert not np.any(grad)


def test_unknown_clip_is_named():
    with pytest.raises(UserError, match="unknown clip 'pp0'; expected one of ppo, two_sided, none"):
        clipped_surrogate(NEW, OLD, A, clip="pp0", epsilon_low=0.2, epsilon_high=0.2)


def test_importance_weights_are_capped_and_have_no_gradient():
    new, sampler = jnp.log(jnp.array([0.2, 0.5, 0.9])), jnp.log(jnp.array([0.4, 0.4, 0.1]))
    np.testing.assert_allclose(importance_weights(new, sampler, 2.0), [0.5, 1.25, 2.0], rtol=1e-6)
    assert not jax.grad(lambda x: importance_weights(x, sampler, 2.0).sum())(new).any()
