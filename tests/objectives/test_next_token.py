import jax
import jax.numpy as jnp
import numpy as np

from corl_jax.objectives.next_token import next_token_loss


def test_by_hand():
    probs = np.asarray([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]], np.float32)
    loss, log_probs = next_token_loss(
        jnp.log(probs) + 3, jnp.asarray([0, 2]), jnp.asarray([0.5, 2.0])
    )
    np.testing.assert_allclose(log_probs, np.log([0.5, 0.7]), rtol=1e-5)
    np.testing.assert_allclose(loss, -0.5 * np.log(0.5) - 2 * np.log(0.7), rtol=1e-5)


def test_gradient_is_softmax_minus_one_hot_and_zero_without_weight(rng):
    logits, targets = (
        jnp.asarray(rng.normal(size=(2, 3, 5))),
        jnp.asarray(rng.integers(0, 5, (2, 3))),
    )
    weights = jnp.asarray([[1.0, 0.0, 2.0], [0.0, 0.0, 0.5]])
    grad = jax.grad(lambda x: next_token_loss(x, targets, weights)[0])(logits)
    expected = (jax.nn.softmax(logits) - jax.nn.one_hot(targets, 5)) * weights[..., None]
    np.testing.assert_allclose(grad, expected, atol=1e-6)
