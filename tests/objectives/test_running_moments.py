"""Moments of rewards over a run."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from corl_jax.objectives.running_moments import RunningMoments, empty_moments


def sums(values):
    mean = values.mean(0)
    return len(values), mean, np.square(values - mean).sum(0)


def test_moments_step_by_step_are_those_of_all_values(rng):
    steps = [rng.normal(5, 3, (n, 2)) for n in (4, 1, 7)]
    seen = empty_moments(2)
    for values in steps:
        seen = seen.with_sums(*map(jnp.asarray, sums(values)))
    whole = np.concatenate(steps)
    np.testing.assert_allclose(seen.count, [12, 12])
    np.testing.assert_allclose(seen.mean, whole.mean(0), rtol=1e-5)
    np.testing.assert_allclose(seen.squares / seen.count, whole.var(0), rtol=1e-5)


def test_z_scores_and_rewards_that_never_differ():
    values = np.array([[1.0, 7.0], [3.0, 7.0]])
    seen = RunningMoments(np.zeros(2), np.zeros(2), np.zeros(2)).with_values(values)
    np.testing.assert_allclose(seen.z_scores(values), [[-1, 0], [1, 0]])
