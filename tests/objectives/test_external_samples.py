"""The surrogate of external samples by hand: RL-PLUS, as its code has it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from corl_jax.objectives.external_samples import external_surrogate

PROBS = jnp.array([0.1, 0.5, 0.9])
OLD_PROBS = jnp.array([0.1, 0.4, 0.9])


def test_weights_and_fading_by_hand():
    loss, weights = external_surrogate(jnp.log(PROBS), jnp.log(OLD_PROBS), jnp.float32(2), 0.5)
    np.testing.assert_allclose(weights, [0.3077, 0.9091, 0.9730], atol=5e-5)
    np.testing.assert_allclose(loss / (-2 * weights), [0.9487, 0.7071, 0.3162], atol=5e-5)

    # The advantage stays whole with exponent 0, and a rare token has about 4 pi of it.
    loss, weights = external_surrogate(jnp.log(PROBS), None, jnp.float32(2), 0)
    np.testing.assert_allclose(loss, -2 * weights, rtol=1e-6)
    _, weights = external_surrogate(jnp.log(jnp.float32(0.01)), None, jnp.float32(1), 0.5)
    np.testing.assert_allclose(weights, 0.0388, atol=5e-5)


def test_the_gradient_is_that_of_pi_in_the_numerator_alone():
    """``d w / d log pi = w``, for an old policy that is a constant, given or not."""
    for old in (jnp.log(OLD_PROBS), None):
        loss, weights = external_surrogate(jnp.log(PROBS), old, jnp.float32(1), 0.5)
        gradient = jax.grad(lambda x, old=old: external_surrogate(x, old, 1.0, 0.5)[0].sum())(
            jnp.log(PROBS)
        )
        np.testing.assert_allclose(gradient, loss, rtol=1e-5)
        assert (weights > 0).all()


def test_a_token_that_is_sure_has_no_part_and_no_nan():
    above = jnp.array([0.0, 1e-7])
    loss, _ = external_surrogate(above, None, jnp.float32(1), 0.5)
    gradient = jax.grad(lambda x: external_surrogate(x, None, 1.0, 0.5)[0].sum())(above)
    np.testing.assert_array_equal(loss, 0)
    np.testing.assert_array_equal(gradient, 0)
