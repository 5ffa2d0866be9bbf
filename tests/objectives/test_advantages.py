import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from corl_jax.core.errors import UserError
from corl_jax.objectives.advantages import PAIRINGS, paired_advantages, zero_std_groups
from corl_jax.objectives.normalizations import EPSILON, Normalizer, baselines, normalizations
from corl_jax.objectives.reward_parts import equal_parts, normalized_sum, whiten

REWARDS = jnp.asarray([[1.0, 2.0, 3.0, 6.0], [0.0, 0.0, 1.0, 1.0]])


def test_group_scale_by_hand():
    # row 0: mean 3, deviations -2 -1 0 3, squares 4 1 0 9, ddof 1 -> std sqrt(14 / 3)
    std = np.sqrt(14 / 3)
    expected = np.asarray([-2, -1, 0, 3]) / (std + 1e-4)
    np.testing.assert_allclose(normalizations["group"](REWARDS)[0], expected, rtol=1e-6)
    expected = np.asarray([-1, -1, 1, 1]) / 2 / (np.sqrt(1 / 3) + 1e-4)
    np.testing.assert_allclose(normalizations["group"](REWARDS)[1], expected, rtol=1e-6)


def test_batch_and_none_scales_by_hand():
    centred = np.asarray([[-2, -1, 0, 3], [-0.5, -0.5, 0.5, 0.5]])
    np.testing.assert_allclose(normalizations["none"](REWARDS), centred)
    np.testing.assert_allclose(
        normalizations["batch"](REWARDS), centred / (np.sqrt(15 / 7) + EPSILON), rtol=1e-6
    )


def test_leaving_one_out_by_hand():
    # row 0: the others' means are 11/3, 10/3, 3, 2; row 1: 2/3 for each 0, 1/3 for each 1
    centred = np.asarray([[-8 / 3, -4 / 3, 0, 4], [-2 / 3, -2 / 3, 2 / 3, 2 / 3]])
    np.testing.assert_allclose(baselines["leave_one_out"](REWARDS), centred, rtol=1e-6)
    stds = {
        "group": np.sqrt([[14 / 3], [1 / 3]]) + EPSILON,
        "batch": np.sqrt(15 / 7) + EPSILON,
        "none": 1,
    }
    for name, std in stds.items():
        np.testing.assert_allclose(
            normalizations[name](REWARDS, "leave_one_out"), centred / std, rtol=1e-6
        )

    paired = paired_advantages(
        REWARDS,
        REWARDS,
        pairing="unified",
        normalization="none",
        text_weight=0.5,
        baseline="leave_one_out",
    )
    np.testing.assert_allclose(paired, [1.5 * centred] * 2, rtol=1e-6)


def test_zero_std_groups_are_those_with_equal_rewards_after_pairing():
    image = np.float32([[1, 1], [1, 1], [2, 1], [2, 1]])
    text = np.float32([[3, 3], [3, 4], [3, 3], [1, 3]])
    flags = {
        name: zero_std_groups({"image": image, "text": text}, pairing=name, text_weight=0.5)
        for name in PAIRINGS
    }
    np.testing.assert_array_equal(flags["separate"]["image"], [1, 1, 0, 0])
    np.testing.assert_array_equal(flags["separate"]["text"], [1, 0, 1, 0])

    for task in ("image", "text"):
        np.testing.assert_array_equal(flags["unified"][task], [1, 0, 0, 1])  # 2 + 0.5 = 1 + 1.5
        np.testing.assert_array_equal(flags["sum_of_advantages"][task], [1, 0, 0, 0])
        shared, _ = paired_advantages(
            jnp.asarray(image),
            jnp.asarray(text),
            pairing="unified",
            normalization="group",
            text_weight=0.5,
        )
        np.testing.assert_array_equal(~np.any(shared, 1), flags["unified"][task])

    # With one task there is nothing to pair.
    np.testing.assert_array_equal(
        zero_std_groups({"text": text}, pairing="unified", text_weight=0.5)["text"], [1, 0, 1, 0]
    )


@pytest.mark.parametrize("name", ["group", "batch", "none"])
def test_a_constant_added_to_a_group_changes_nothing(name):
    shifted = REWARDS + jnp.asarray([[5.0], [-3.0]])
    np.testing.assert_allclose(
        normalizations[name](shifted), normalizations[name](REWARDS), atol=1e-5
    )


@pytest.mark.parametrize("name", ["group", "batch", "none", "maxrl"])
def test_equal_rewards_give_zero(name):
    np.testing.assert_array_equal(normalizations[name](jnp.full((2, 4), 0.5)), 0)


def test_pairings_by_hand():
    image, text = REWARDS, jnp.asarray([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 2.0, 0.0]])
    normalize = normalizations["group"]
    paired = {
        name: paired_advantages(image, text, pairing=name, normalization="group", text_weight=0.8)
        for name in ("unified", "separate", "sum_of_advantages")
    }
    np.testing.assert_allclose(paired["unified"][0], normalize(image + 0.8 * text))
    np.testing.assert_allclose(
        paired["sum_of_advantages"][0], normalize(image) + 0.8 * normalize(text)
    )
    for name in ("unified", "sum_of_advantages"):
        np.testing.assert_array_equal(*paired[name])
    np.testing.assert_allclose(paired["separate"][0], normalize(image))
    np.testing.assert_allclose(paired["separate"][1], normalize(text))  # without the weight 0.8


def test_separate_pairing_allows_different_numbers_of_prompts():
    image, text = paired_advantages(
        REWARDS, jnp.ones((5, 2)), pairing="separate", normalization="none", text_weight=0.8
    )
    assert image.shape == (2, 4) and text.shape == (5, 2)


def test_errors_name_the_bad_value():
    arguments = {"normalization": "group", "text_weight": 0.8}
    with pytest.raises(UserError, match=r"'unified' needs as many answers.*\(3, 4\) and \(2, 4\)"):
        paired_advantages(REWARDS, jnp.ones((3, 4)), pairing="unified", **arguments)
    with pytest.raises(
        UserError, match="unknown pairing 'unifed'; expected one of unified, separate"
    ):
        paired_advantages(REWARDS, REWARDS, pairing="unifed", **arguments)
    with pytest.raises(
        UserError,
        match="unknown advantage normalization 'std'; expected one of batch, group, maxrl",
    ):
        paired_advantages(REWARDS, REWARDS, pairing="unified", normalization="std", text_weight=0.8)


def test_maxrl_by_hand():
    rewards = jnp.asarray([[1.0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    expected = [[3, -1, -1, -1], [1, 1, -1, -1], [0, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(normalizations["maxrl"](rewards), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("size", "right", "k", "of_right", "of_wrong"),
    [
        (4, 1, 2, 1, -1 / 3),
        (8, 2, 4, 0.522233, -0.174078),
        (4, 1, 1, 3**0.5, -(3**-0.5)),  # GRPO with ddof 0
        (4, 3, 2, 0, 0),  # fewer than k wrong: every attempt succeeds
        (4, 4, 2, 0, 0),
        (4, 0, 2, 0, 0),
    ],
)
def test_pass_at_k_by_hand(size, right, k, of_right, of_wrong):
    rewards = np.float32([[0] * (size - right) + [1] * right])
    normalizer = Normalizer("pass_at_k", pass_k=k)
    advantages = np.asarray(normalizer(jnp.asarray(rewards)))
    expected = [[of_wrong] * (size - right) + [of_right] * right]
    np.testing.assert_allclose(advantages, expected, rtol=2e-5, atol=0)
    assert abs(advantages.sum()) < 1e-5
    np.testing.assert_array_equal(normalizer.has_no_advantage(rewards), ~advantages.any(1))


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_pass_at_k_is_the_mean_over_all_subsets(k):
    """A sample's advantage is what the subsets with it earn above all, over their deviation."""
    rewards = np.float32([0, 1, 0, 0, 0, 1])
    subsets = list(itertools.combinations(range(6), k))
    best = np.array([rewards[list(subset)].max() for subset in subsets])
    of_sample = [
        best[[sample in subset for subset in subsets]].mean() - best.mean() for sample in range(6)
    ]
    std = best.std()
    expected = np.array(of_sample) / std if std else np.zeros(6)
    advantages = normalizations["pass_at_k"](jnp.asarray(rewards[None]), k=k)
    np.testing.assert_allclose(advantages[0], expected, rtol=1e-5)


def test_rewards_that_a_normalization_is_not_for_are_named():
    with pytest.raises(UserError, match="'maxrl' .* so text rewards must be at least 0; got -0.5"):
        Normalizer("maxrl").check(np.array([[1, -0.5]]), "text rewards")
    with pytest.raises(UserError, match="'pass_at_k' .* text rewards must be 0 or 1; got 0.5"):
        Normalizer("pass_at_k").check(np.array([[1, 0.5]]), "text rewards")
    for name, rewards in (("maxrl", [[0, 7.5]]), ("pass_at_k", [[0, 1]]), ("group", [[-1, 0.5]])):
        Normalizer(name).check(np.array(rewards), "rewards")


# Rewards r1 and r2 of two samples of groups A and B.
PARTS = np.float32([[[0, 0], [1, 0]], [[0, 0], [1, 1]]])


def test_rewards_normalized_one_by_one_by_hand():
    summed = normalizations["group"](jnp.asarray(PARTS.sum(-1)))
    np.testing.assert_allclose(summed, [[-0.7071, 0.7071]] * 2, atol=2e-4)
    by_part = normalized_sum(jnp.asarray(PARTS), np.ones(2))
    np.testing.assert_allclose(by_part, [[-0.7071, 0.7071], [-1.4142, 1.4142]], atol=1e-4)
    whitened = [[-0.5477, 0.5477], [-1.0954, 1.0954]]
    np.testing.assert_allclose(whiten(by_part), whitened, atol=1e-4)

    # Weights count after normalization, whatever the scale of a reward.
    scaled = normalized_sum(jnp.asarray(PARTS * [1, 0.01] + [0, 3]), np.array([2.0, -1.0]))
    np.testing.assert_allclose(scaled, [[-1.4142, 1.4142], [-0.7071, 0.7071]], atol=1e-3)


def test_groups_are_silent_only_if_every_reward_is_equal():
    parts = np.concatenate([PARTS, np.float32([[[0.1, 3], [0.1, 3]], [[0, 1], [1, 0]]])])
    np.testing.assert_array_equal(equal_parts(parts), [0, 0, 1, 0])

    # Rewards that cancel leave nothing, and no rounding error that whitening would magnify.
    advantages = normalized_sum(jnp.asarray(parts), np.ones(2))
    np.testing.assert_array_equal(advantages[2:], 0)
    np.testing.assert_array_equal(whiten(advantages[2:]), 0)
