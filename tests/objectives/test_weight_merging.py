"""Merged tensors against values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from corl_jax.core.errors import UserError
from corl_jax.objectives.weight_merging import merges

BASE = np.array([1.0, 2, 3, 4, 5], np.float32)
ONE, TWO = np.array([0.0, 0, 0, 0, 10], np.float32), np.array([1.0, -1, 1, -1, 0], np.float32)
"""Changes. Means 2 and 0, so mu = 1; deviations sqrt(80 / 4) and sqrt(4 / 4), so sigma = 1: inliers
in (-1, 3).
"""


def merged(name, *changes, lam=2.0, weights=()):
    return merges[name](BASE, [BASE + change for change in changes], lam, weights)


def test_gaussian_by_hand():
    """10 and both -1 (at the end of the range) are outliers, added up; both 1 and the zeros are
    inliers, halved.
    """
    np.testing.assert_allclose(
        merged("gaussian", ONE, TWO), BASE + [0.5, -1, 0.5, -1, 10], rtol=1e-6
    )
    np.testing.assert_allclose(
        merged("gaussian", TWO, ONE), BASE + [0.5, -1, 0.5, -1, 10], rtol=1e-6
    )
    np.testing.assert_allclose(
        merged("gaussian", ONE, TWO, lam=8.0), BASE + [0.5, -0.5, 0.5, -0.5, 10], rtol=1e-6
    )
    np.testing.assert_allclose(
        merged("gaussian", ONE, TWO, lam=10.0), BASE + [0.5, -0.5, 0.5, -0.5, 5], rtol=1e-6
    )
    np.testing.assert_allclose(
        merged("gaussian", ONE, TWO, lam=1.5), BASE + [0.5, -1, 0.5, -1, 10], rtol=1e-6
    )


def test_gaussian_is_the_formula_on_random_numbers(rng):
    base = rng.normal(size=(7, 11)).astype(np.float32)
    d1, d2 = (
        rng.normal(0.1, 1, (2, 7, 11)).astype(np.float32)
        * np.array([1, 0.3], np.float32)[:, None, None]
    )
    mu, sg = (d1.mean() + d2.mean()) / 2, min(d1.std(ddof=1), d2.std(ddof=1))
    inliers = [np.where((mu - 2 * sg < d) & (d < mu + 2 * sg), d, 0) for d in (d1, d2)]
    expected = (
        base + sum(d - i for d, i in zip((d1, d2), inliers, strict=True)) + 0.5 * sum(inliers)
    )
    got = merges["gaussian"](base, [base + d1, base + d2], 2.0, ())
    np.testing.assert_allclose(got, expected, atol=1e-5)
    linear = base + (d1 + d2) / 2
    assert not np.allclose(got, linear, atol=1e-3)


def test_untouched_tensors_stay_bit_for_bit():
    np.testing.assert_array_equal(merged("gaussian", ONE * 0, TWO * 0), BASE)
    np.testing.assert_array_equal(merged("linear", ONE * 0, TWO * 0, weights=(0.5, 0.5)), BASE)
    # With sigma 0 every change is an outlier.
    np.testing.assert_array_equal(merged("gaussian", ONE * 0, ONE), BASE + ONE)
    assert merges["gaussian"](np.float32([2]), [np.float32([3]), np.float32([5])], 2.0, ()) == [6]


def test_linear_by_hand():
    np.testing.assert_allclose(
        merged("linear", ONE, TWO, weights=(0.5, 0.5)), BASE + [0.5, -0.5, 0.5, -0.5, 5]
    )
    np.testing.assert_allclose(merged("linear", ONE, TWO, weights=(1.0, 0.0)), BASE + ONE)


def test_an_unknown_method_is_named():
    with pytest.raises(
        UserError, match="unknown merge method 'mean'; expected one of gaussian, linear"
    ):
        merges["mean"]
