"""Factors of image tokens: the sources' numbers by hand, and what must hold for any group."""

from __future__ import annotations

import numpy as np
import pytest

from corl_jax.objectives.image_credit import (
    contrast_factors,
    entropy_gradient,
    group_similarity,
    normalized,
    opposites,
    others,
    running_confidence,
    third_mask,
    token_factors,
)

ADVANTAGES = np.array([[1, -0.5, -0.5]], np.float32)


def directions(*degrees):
    """Code vectors ``[1, G, 1, 2]`` of these directions, of different lengths."""
    angles = np.radians(degrees)
    vectors = np.stack([np.cos(angles), np.sin(angles)], -1)
    return (vectors * np.arange(1, len(degrees) + 1)[:, None])[None, :, None]


def test_contrast_by_hand():
    """STAGE: cosines 1 and 0 with the two samples of the other sign, which do not see each other."""
    similarity = group_similarity(directions(0, 0, 90), opposites(ADVANTAGES))
    advantage, kl = contrast_factors(similarity)
    np.testing.assert_allclose(advantage.ravel(), [0.25, 0, 0.5], atol=1e-12)
    np.testing.assert_allclose(kl.ravel(), [1, 1, 1], atol=1e-12)

    # Unlike the other verdict, a token has more of the advantage and a looser KL.
    similarity = group_similarity(directions(0, 120, 120), opposites(ADVANTAGES))
    advantage, kl = contrast_factors(similarity[:, :1])
    np.testing.assert_allclose([advantage.item(), kl.item()], [0.75, 0.75], rtol=1e-12)


def test_a_sample_without_a_verdict_is_compared_with_none():
    partners = opposites(np.array([[1.0, 0, -1], [0, 0, 0]]))
    assert partners[0].tolist() == [[False, False, True], [False] * 3, [True, False, False]]
    assert not partners[1].any()
    np.testing.assert_array_equal(group_similarity(directions(0, 0, 0), partners[:1])[0, 1], 0)


def test_equal_samples_have_no_credit_to_move():
    vectors = np.random.default_rng(0).normal(size=(1, 1, 9, 8)).astype(np.float32).repeat(3, 1)
    factors = token_factors("contrast", vectors, ADVANTAGES)
    np.testing.assert_array_equal(factors.advantage, 0)
    np.testing.assert_array_equal(factors.kl, 1)


def test_factors_have_mean_one_where_there_is_an_advantage(rng):
    vectors = rng.normal(size=(3, 4, 16, 8))
    advantages = rng.normal(size=(3, 4)) * [[1], [1], [0]]
    entropies, log_ratios = rng.uniform(0, 3, (2, 3, 4, 16))
    for credit in ("contrast", "third"):
        factors = token_factors(credit, vectors, advantages, entropies, log_ratios)
        assert factors.advantage.dtype == factors.kl.dtype == np.float32
        assert factors.advantage[:2].mean() == pytest.approx(1, rel=1e-6)
        assert factors.kl.mean() == pytest.approx(1, rel=1e-6)
        assert factors.advantage.min() >= 0 and factors.advantage[:2].std() > 0.1


def test_what_is_normalized_by_hand():
    factors = np.array([[[1.0, 3], [9, 9]]])
    counts = np.array([[True, False]])
    np.testing.assert_array_equal(normalized(factors, counts), [[[0.5, 1.5], [4.5, 4.5]]])
    np.testing.assert_array_equal(normalized(factors, ~counts & counts), 0)


def test_confidence_by_hand():
    """GCPO: a log-ratio of -0.7 counts as -0.5."""
    confidence = running_confidence(np.array([[[0.2, -0.7, 0.1]]]))
    np.testing.assert_allclose(confidence.ravel(), [1.2214, 0.9140, 0.9777], atol=5e-5)


def test_the_gradient_of_a_smoothed_map_by_hand():
    """Of 3 x 3: every place the mean of itself, its left neighbour and the three above."""
    grid = np.array([[4.0, 0, 0], [0, 0, 0], [0, 0, 10]])
    smooth = np.array([[4, 2, 0], [4 / 3, 4 / 5, 0], [0, 0, 10 / 4]])
    dy = [smooth[1] - smooth[0], (smooth[2] - smooth[0]) / 2, smooth[2] - smooth[1]]
    dx = [
        smooth[:, 1] - smooth[:, 0],
        (smooth[:, 2] - smooth[:, 0]) / 2,
        smooth[:, 2] - smooth[:, 1],
    ]
    expected = np.sqrt(np.array(dy) ** 2 + np.array(dx).T ** 2)
    np.testing.assert_allclose(entropy_gradient(grid.reshape(9)), expected.reshape(9), rtol=1e-12)


def test_the_three_tenths_by_hand():
    """Of 100 tokens: 0 to 9; an edge in the middle 80 %; the ten most different places of the rest."""
    entropies = np.zeros((1, 2, 10, 10))
    entropies[0, :, 5:] = 3
    entropies[0, :, 9] = 50  # the last tenth, where no edge counts
    similarity = np.linspace(1, 0, 100) * np.ones((1, 2, 1))
    similarity[0, 0, 20] = -4  # the group's mean of place 20 is the lowest
    mask = third_mask(entropies.reshape(1, 2, 100), similarity)
    expected = {*range(10), 20, *range(91, 100)}
    for sample in mask[0]:
        chosen = set(np.flatnonzero(sample))
        assert expected <= chosen and len(chosen) == 30
        assert chosen - expected <= set(range(40, 90))


@pytest.mark.parametrize(("length", "count"), [(576, 171), (64, 18), (4, 3)])
def test_a_third_is_three_tenths(rng, length, count):
    mask = third_mask(rng.uniform(size=(2, 3, length)), rng.uniform(size=(2, 3, length)))
    assert (mask.sum(-1) == count).all()
    places = others(np.zeros((1, 3, 1, 1)))
    assert places[0].sum() == 6 and not places[0].diagonal().any()
