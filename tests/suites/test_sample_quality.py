"""Diversity, duplicates and use of codes, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from made_results import noise_picture

from corl_jax.suites.duplicates import duplicate_estimates, find_duplicates, hash_pictures
from corl_jax.suites.sample_quality import (
    code_usage,
    diversity,
    diversity_estimate,
    pixel_distances,
    shrink_pictures,
    token_distances,
)


def grey(level, side=32):
    return np.full((side, side, 3), level, np.uint8)


def test_distances_by_hand():
    others = np.stack([grey(0), grey(255), grey(51)])
    assert pixel_distances(grey(0), others) == pytest.approx([0, 1, 0.2])
    # One channel of three.
    red = grey(0)
    red[..., 0] = 255
    assert pixel_distances(red, others) == pytest.approx([1 / 3, 2 / 3, (204 + 51 + 51) / 765])
    tokens = np.array([[1, 2, 3, 4], [1, 2, 3, 4], [4, 3, 2, 1], [1, 0, 3, 0]])
    assert token_distances(tokens[0], tokens) == pytest.approx([0, 0, 1, 0.5])


def test_diversity_is_the_mean_over_pairs_of_a_prompt():
    pictures = np.stack([grey(0), grey(255), grey(0), grey(51), grey(7)])
    # The samples of a prompt need not be neighbours; a single one has no diversity.
    prompts = ["dog", "cat", "dog", "dog", "cow"]
    values = diversity(pictures, prompts)
    assert values[[0, 2, 3]] == pytest.approx([0.1, 0.1, 0.2]) and np.isnan(values[[1, 4]]).all()
    # Pairs of "dog": 0, 0.2 and 0.2.
    result = diversity_estimate(values, prompts)["diversity"]
    assert (result["value"], result["n"], result["stderr"]) == (pytest.approx(0.4 / 3), 1, None)
    assert diversity_estimate(values[[1, 4]], ["cat", "cow"]) == {}

    tokens = np.array([[1, 1], [1, 2], [5, 5], [5, 5]])
    by_tokens = diversity(tokens, ["a", "a", "b", "b"], token_distances)
    assert by_tokens == pytest.approx([0.5, 0.5, 0, 0])
    estimate = diversity_estimate(by_tokens, ["a", "a", "b", "b"])["diversity"]
    assert (estimate["value"], estimate["n"]) == (0.25, 2)
    with pytest.raises(ValueError, match="2 samples and 1 prompts"):
        diversity(tokens[:2], ["a"])


def test_pictures_of_other_sizes_are_comparable():
    checks = np.zeros((64, 64, 3), np.uint8)
    checks[::2, ::2] = checks[1::2, 1::2] = 255
    small = shrink_pictures([checks, grey(128, 50), grey(128, 32)])
    assert small.shape == (3, 32, 32, 3)
    # Averages over areas: fine noise is grey.
    assert pixel_distances(small[1], small) == pytest.approx([0, 0, 0], abs=1 / 255)
    with pytest.raises(ValueError, match="must not be empty"):
        shrink_pictures([])


def test_duplicates_within_and_across_prompts():
    first, second = noise_picture(1, 32), noise_picture(2, 32)
    near = np.clip(first.astype(int) + 3, 0, 255).astype(np.uint8)
    pictures = [first, first, near, second, second, noise_picture(3, 32)]
    prompts = ["a", "a", "a", "a", "b", "b"]
    twins = find_duplicates(hash_pictures(pictures), shrink_pictures(pictures), prompts)
    assert twins.equal.tolist() == [True, True, False, False, False, False]
    assert twins.near.tolist() == [True, True, True, False, False, False]
    assert twins.equal_elsewhere.tolist() == [False, False, False, True, True, False]
    assert twins.near_elsewhere.tolist() == [False, False, False, True, True, False]

    metrics = duplicate_estimates(twins, prompts)
    # Shares by prompt: 2 of 4 and 0 of 2, 3 of 4, 1 of 4 and 1 of 2.
    values = {name: metric["value"] for name, metric in metrics.items()}
    assert values == {
        "duplicates": 0.25,
        "near_duplicates": 0.375,
        "duplicates_of_other_prompts": 0.375,
        "near_duplicates_of_other_prompts": 0.375,
    }


def test_equal_at_a_small_size_is_near_and_not_equal():
    big = np.repeat(np.repeat(noise_picture(1, 32), 4, axis=0), 4, axis=1)
    changed = big.copy()
    changed[0, 0] = changed[0, 0] ^ 1
    twins = find_duplicates(
        hash_pictures([big, changed]), shrink_pictures([big, changed]), ["a", "a"]
    )
    assert not twins.equal.any() and twins.near.all()


def test_blocks_exclude_no_near_pair():
    # Every pair by brute force, near the threshold.
    rng = np.random.default_rng(0)
    base = rng.integers(20, 200, size=(1, 32, 32, 3))
    reach = rng.integers(0, 12, size=(60, 1, 1, 1))
    small = (base + rng.integers(-1, 2, size=(60, 32, 32, 3)) * reach).astype(np.uint8)
    prompts = [str(place % 7) for place in range(60)]
    twins = find_duplicates(hash_pictures(small), small, prompts)

    gaps = np.stack([pixel_distances(picture, small) for picture in small])
    is_near = (gaps <= 0.02) & ~np.eye(60, dtype=bool)
    inside = np.equal.outer(prompts, prompts)
    assert twins.near.tolist() == (is_near & inside).any(axis=1).tolist()
    assert twins.near_elsewhere.tolist() == (is_near & ~inside).any(axis=1).tolist()
    assert 5 < twins.near_elsewhere.sum() < 55


def test_code_usage_by_hand():
    usage = code_usage(np.array([[0, 1], [2, 3]]), 8)
    assert (usage.distinct, usage.share) == (4, 0.5) and usage.perplexity == pytest.approx(4)
    assert code_usage(np.full((5, 9), 3), 8).perplexity == pytest.approx(1)
    # Shares 3/4 and 1/4.
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert code_usage(np.array([[1, 1, 1, 0]]), 2).perplexity == pytest.approx(math.exp(entropy))
    assert code_usage(np.arange(64).reshape(4, 16), 64).perplexity == pytest.approx(64)
    for tokens in (np.array([[8]]), np.array([[-1]]), np.zeros((0, 4), int)):
        with pytest.raises(ValueError, match="must be codes 0..7"):
            code_usage(tokens, 8)
