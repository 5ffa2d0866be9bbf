"""Surrogates with another bound than PPO's clip: CISPO, GSPO, SAPO."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corl_jax.objectives.policy_gradient import clipped_surrogate
from corl_jax.objectives.surrogates import cispo, gspo, sapo

# Log-ratios of three tokens; the fourth is padding, with a log-prob that must not count.
LOG_RATIOS = jnp.asarray([[0.1, -0.3, 0.05, 40.0]])
MASK = jnp.asarray([[True, True, True, False]])
OLD = jnp.log(jnp.asarray([[0.2, 0.5, 0.4, 0.1]]))
EPSILONS = {"epsilon_low": 3e-4, "epsilon_high": 4e-4}


def test_cispo_keeps_a_gradient_beyond_its_cap():
    """The cap is the ratio itself: 5 and not 1 + 5, as copied from one code to another."""
    log_prob, old = jnp.asarray(-2.0), jnp.asarray(-2.0 - np.log(6))
    loss = lambda x, old=old: cispo(x, old, jnp.asarray(1.0), cap=5.0)  # noqa: E731
    value, ratio, is_capped = loss(log_prob)
    np.testing.assert_allclose((value, ratio, is_capped), (10, 6, 1), rtol=1e-6)
    assert jax.grad(lambda x: loss(x)[0])(log_prob) == -5
    ppo = functools.partial(clipped_surrogate, clip="ppo", epsilon_low=0.2, epsilon_high=0.2)
    assert jax.grad(lambda x: ppo(x, old, jnp.asarray(1.0))[0])(log_prob) == 0

    value, ratio, is_capped = loss(log_prob, jnp.asarray(-2.0 - np.log(4.9)))
    np.testing.assert_allclose((value, ratio, is_capped), (9.8, 4.9, 0), rtol=1e-6)


@pytest.mark.parametrize(("advantage", "clipped"), [(1.0, False), (-1.0, True)])
def test_gspo_has_one_ratio_per_completion(advantage, clipped):
    loss, ratio, is_clipped = gspo(
        OLD + LOG_RATIOS, OLD, jnp.asarray([[advantage]]), MASK, **EPSILONS
    )
    np.testing.assert_allclose(ratio[:, :3], [[0.95123] * 3], rtol=1e-5)
    np.testing.assert_array_equal(is_clipped[:, :3], clipped)
    expected = 0.9997 if clipped else -0.95123
    np.testing.assert_allclose(loss[:, :3], [[expected] * 3], rtol=1e-5)

    # Of the token form and of the sequence's own ratio, whose tokens share one weight.
    def token_form(log_probs):
        per_token = gspo(log_probs, OLD, jnp.asarray([[advantage]]), MASK, **EPSILONS)[0]
        return jnp.sum(jnp.where(MASK, per_token, 0)) / 3

    def sequence_form(log_probs):
        ratio = jnp.exp(jnp.sum(jnp.where(MASK, log_probs - OLD, 0)) / 3)
        low, high = 1 - EPSILONS["epsilon_low"], 1 + EPSILONS["epsilon_high"]
        return -jnp.minimum(ratio * advantage, jnp.clip(ratio, low, high) * advantage)

    gradients = [jax.grad(form)(OLD + LOG_RATIOS) for form in (token_form, sequence_form)]
    np.testing.assert_allclose(*gradients, rtol=1e-5)
    per_token = 0 if clipped else -0.95123 / 3
    np.testing.assert_allclose(gradients[0], [[per_token] * 3 + [0]], rtol=1e-5)


def test_sapo_is_a_soft_gate():
    ratios = jnp.asarray([1.0, 1.2, 1.0, 1.2])
    advantages = jnp.asarray([1.0, 1.0, -1.0, 0.0])
    loss, ratio, is_clipped = sapo(
        jnp.log(ratios), jnp.zeros(4), advantages, tau_positive=1.0, tau_negative=2.0
    )
    np.testing.assert_allclose(loss, [-2.0, -2.1993, 1.0, 0], atol=1e-4)
    np.testing.assert_allclose(ratio, ratios, rtol=1e-6)
    assert not is_clipped.any()


SURROGATES = {
    "cispo": functools.partial(cispo, cap=5.0),
    "gspo": functools.partial(gspo, mask=MASK, **EPSILONS),
    "sapo": functools.partial(sapo, tau_positive=1.0, tau_negative=1.05),
}


@pytest.mark.parametrize("name", SURROGATES)
def test_at_ratio_one_gradients_are_those_without_a_clip(name):
    for advantage in (2.0, -0.5):
        gradient = jax.grad(
            lambda x, a=advantage: jnp.sum(
                jnp.where(MASK, SURROGATES[name](x, OLD, jnp.asarray([[a]]))[0], 0)
            )
        )(OLD)
        np.testing.assert_allclose(gradient, [[-advantage] * 3 + [0]], rtol=1e-6)


@pytest.mark.parametrize("name", SURROGATES)
def test_losses_and_gradients_are_finite_however_far_the_policies_are(name):
    for shift in (-1e4, -100.0, 19.9, 100.0, 1e4):
        for advantage in (1.0, -1.0, 0.0):
            loss, gradient = jax.value_and_grad(
                lambda x, a=advantage: jnp.sum(SURROGATES[name](x, OLD, jnp.asarray([[a]]))[0])
            )(OLD + shift)
            assert np.isfinite(loss) and np.isfinite(gradient).all()
