import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corl_jax.core.errors import UserError
from corl_jax.objectives.policy_gradient import clipped_surrogate
from corl_jax.objectives.token_weights import token_weights, without_truncated

MODES = ("sequence_mean", "token_mean", "fixed_length")


@pytest.fixture
def mask(rng):
    """``[B, G, T]`` = 4, 3, 6; lengths 1 to 6 and one row of padding without any token."""
    lengths = rng.integers(1, 7, (4, 3, 1))
    lengths[2, 1] = 0
    return np.arange(6) < lengths


def test_by_hand():
    mask = np.asarray([[[1, 1, 1, 0], [1, 0, 0, 0]], [[0, 0, 0, 0], [0, 0, 0, 0]]], bool)
    expected = {
        "sequence_mean": [[1 / 6, 1 / 6, 1 / 6, 0], [1 / 2, 0, 0, 0]],
        "token_mean": [[1 / 4, 1 / 4, 1 / 4, 0], [1 / 4, 0, 0, 0]],
        "fixed_length": [[1 / 8, 1 / 8, 1 / 8, 0], [1 / 8, 0, 0, 0]],
    }
    for mode, rows in expected.items():
        got = token_weights(mask, aggregation=mode)
        np.testing.assert_allclose(got, [rows, np.zeros((2, 4))], rtol=1e-6)


def test_sums(mask):
    sequences = mask.any(-1).sum()
    for mode, total in (
        ("sequence_mean", 1),
        ("token_mean", 1),
        ("fixed_length", mask.sum() / (6 * sequences)),
    ):
        for task_weight in (1.0, 0.3):
            weights = token_weights(mask, aggregation=mode, task_weight=task_weight)
            np.testing.assert_allclose(weights.sum(), task_weight * total, rtol=1e-5)
            np.testing.assert_array_equal(weights[~mask], 0)


def test_an_empty_mask_gives_zero_not_nan():
    for mode in MODES:
        np.testing.assert_array_equal(token_weights(np.zeros((2, 3), bool), aggregation=mode), 0)


def test_unknown_name():
    with pytest.raises(
        UserError,
        match="unknown loss aggregation 'mean'; expected one of fixed_length, sequence_mean",
    ):
        token_weights(np.ones((1, 1), bool), aggregation="mean")


def test_cut_answers_are_left_out_and_the_others_keep_the_whole_weight():
    tokens = np.asarray([[[5, 6, 7, 8], [5, 9, 0, 0]], [[9, 9, 9, 9], [5, 6, 7, 9]]])
    mask = np.asarray([[[1, 1, 1, 1], [1, 1, 0, 0]], [[1, 0, 0, 0], [1, 1, 1, 1]]], bool)
    whole = without_truncated(jnp.asarray(mask), jnp.asarray(tokens), eos_id=9)
    expected = mask.copy()
    expected[0, 0] = False
    np.testing.assert_array_equal(whole, expected)
    weights = token_weights(whole, aggregation="sequence_mean").sum(-1)
    np.testing.assert_allclose(weights, [[0, 1 / 3], [1 / 3, 1 / 3]], rtol=1e-6)


@jax.jit
def loss_and_gradient(theta, features, advantages, weights):
    def loss(theta):
        log_probs = jax.nn.log_sigmoid(features @ theta)
        per_token, _, _ = clipped_surrogate(
            log_probs,
            None,
            advantages[..., None],
            clip="ppo",
            epsilon_low=0.2,
            epsilon_high=0.2,
        )
        return jnp.sum(per_token * weights)

    return jax.value_and_grad(loss)(theta)


@pytest.mark.parametrize("mode", MODES)
def test_micro_batches_by_row_add_up_to_one_batch(float64, rng, mask, mode):
    theta, features = jnp.asarray(rng.normal(size=5)), jnp.asarray(rng.normal(size=(4, 3, 6, 5)))
    advantages = jnp.asarray(rng.normal(size=(4, 3)))
    weights = token_weights(mask, aggregation=mode).astype(jnp.float64)
    full_loss, full_grad = loss_and_gradient(theta, features, advantages, weights)
    for parts in ([slice(0, 1), slice(1, 4)], [slice(i, i + 1) for i in range(4)]):
        each = [loss_and_gradient(theta, features[p], advantages[p], weights[p]) for p in parts]
        np.testing.assert_allclose(sum(loss for loss, _ in each), full_loss, atol=1e-15)
        np.testing.assert_allclose(sum(grad for _, grad in each), full_grad, atol=1e-15)


@pytest.mark.parametrize("mode", MODES)
def test_masked_tokens_and_padding_rows_change_nothing(float64, rng, mask, mode):
    theta, features = jnp.asarray(rng.normal(size=5)), rng.normal(size=(4, 3, 6, 5))
    advantages = jnp.asarray(rng.normal(size=(4, 3)))
    weights = token_weights(mask, aggregation=mode)

    # Other features where the mask is False.
    changed = np.where(mask[..., None], features, 3 * rng.normal(size=features.shape))
    loss, grad = loss_and_gradient(theta, jnp.asarray(features), advantages, weights)
    changed_loss, changed_grad = loss_and_gradient(theta, jnp.asarray(changed), advantages, weights)
    np.testing.assert_array_equal(loss, changed_loss)
    np.testing.assert_array_equal(grad, changed_grad)

    padded = np.concatenate([mask, np.zeros((2, 3, 6), bool)])
    np.testing.assert_array_equal(token_weights(padded, aggregation=mode)[:4], weights)
