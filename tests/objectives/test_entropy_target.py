"""The coefficient that steers entropy: first steps and limit by hand, and that it gets there."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corl_jax.objectives.entropy_target import initial_entropy_state, next_entropy_state

update = jax.jit(next_entropy_state)


def steps(entropies, rate=5e-5, limit=5e-3, target=2.0):
    """Coefficients after each of these entropies."""
    state, coefficients = initial_entropy_state(), []
    for entropy in entropies:
        state = update(state, jnp.float32(entropy), target, rate, limit)
        coefficients.append(float(state.coefficient(limit)))
    return state, coefficients


@pytest.mark.parametrize(("entropy", "expected"), [(2.5, 5e-5), (1.5, -5e-5), (2.0, 0.0)])
def test_the_first_step_by_hand(entropy, expected):
    state, (coefficient,) = steps([entropy])
    assert float(state.psi) == pytest.approx(expected, rel=1e-5)
    assert coefficient == pytest.approx(expected, rel=1e-5)


def test_the_second_step_by_hand():
    """Moments of gradients -1 and 1 (cosh is 1 here): m = -.09 + .1, v = .000999 + .001."""
    state, _ = steps([3, 1], rate=1e-3)
    first, second = 0.01 / (1 - 0.9**2), 0.001999 / (1 - 0.999**2)
    assert float(state.psi) == pytest.approx(1e-3 - 1e-3 * first / np.sqrt(second), rel=1e-3)


def test_the_coefficient_has_a_limit_and_leaves_it_at_once():
    far = dataclasses.replace(initial_entropy_state(), psi=jnp.float32(1))
    assert float(far.coefficient(5e-3)) == pytest.approx(5e-3)
    state, coefficients = steps([4] * 300)
    assert max(coefficients) == pytest.approx(5e-3) and coefficients[-1] == max(coefficients)
    assert np.all(np.diff(coefficients) >= 0)

    # Once Adam's momentum has turned, not after 300 more updates.
    for _ in range(30):
        state = update(state, jnp.float32(0), 2.0, 5e-5, 5e-3)
    assert float(state.coefficient(5e-3)) < 5e-3


def test_an_entropy_that_the_coefficient_moves_reaches_its_target():
    """A policy whose entropy is 1.5 by itself, and 40 alpha / 0.2 below where it settles."""
    state, entropy = initial_entropy_state(), 1.5
    for _ in range(300):
        entropy -= 40 * float(state.coefficient(5e-3)) + 0.2 * (entropy - 1.5)
        state = update(state, jnp.float32(entropy), 2.0, 1e-4, 5e-3)
    assert entropy == pytest.approx(2.0, abs=0.01)
    assert float(state.coefficient(5e-3)) == pytest.approx(-2.5e-3, rel=0.02)
