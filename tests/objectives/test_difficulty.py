"""Weights of groups by success: the numbers of VL-Cogito's code."""

from __future__ import annotations

import numpy as np
import pytest

from corl_jax.objectives.difficulty import difficulty_weights

SUCCESS = np.array([0.0, 0.25, 0.5, 0.75, 1.0])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", [1, 1, 1, 1, 1]),
        ("easy", [0, 0.70711, 1, 1, 1]),
        ("medium", [0, 0.70711, 1, 0.70711, 0]),
        ("hard", [0.25, 1, 1, 0.70711, 0]),
    ],
)
def test_by_hand(name, expected):
    weights = difficulty_weights[name](SUCCESS)
    np.testing.assert_allclose(weights, expected, atol=1e-5)
    # Not only nearly 0: such groups must teach nothing.
    assert (weights == 0).tolist() == [value == 0 for value in expected]
