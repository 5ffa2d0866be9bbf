"""Moments of rewards over a run."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from corl_jax.objectives.running_moments import RunningMoments, empty_moments


def sums(values):
    """Count, mean and sum of squared deviations, computed directly."""
    mean = values.mean(0)
    return len(values), mean, np.square(values - mean).sum(0)


def test_moments_step_by_step_are_those_of_all_values(rng):
    steps = [rng.normal(5, 3, (n, 2)) for n in (4, 1, 7)]
    moments = empty_moments(2)
    for values in steps:
        moments = moments.with_sums(*map(jnp.asarray, sums(values)))
    all_values = np.concatenate(steps)
    np.testing.assert_allclose(moments.count, [12, 12])
    np.testing.assert_allclose(moments.mean, all_values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments.squares / moments.count, all_values.var(0), rtol=1e-5)


def test_z_scores_are_zero_for_a_constant_reward():
    values = np.array([[1.0, 7.0], [3.0, 7.0]])
    moments = RunningMoments(np.zeros(2), np.zeros(2), np.zeros(2)).with_values(values)
    np.testing.assert_allclose(moments.z_scores(values), [[-1, 0], [1, 0]])
