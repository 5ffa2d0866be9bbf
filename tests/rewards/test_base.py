"""Combination of rewards: weights, order of rows, and a failing reward that never counts as 0."""

from __future__ import annotations

import numpy as np
import pytest

from corl_jax.core.errors import UserError
from corl_jax.core.types import Completion
from corl_jax.data.shapes.examples import example
from corl_jax.rewards import base, matching, shapes, text
from corl_jax.rewards.base import RewardContext, compute_rewards

EMPTY_CONTEXT = RewardContext()


@pytest.fixture
def extra_rewards(monkeypatch):
    """Adds rewards to the registry for one test: two that work and three that fail."""
    monkeypatch.setattr(base.rewards, "_entries", dict(base.rewards._entries))
    base.rewards.register("length")(
        lambda completions, context: np.array([len(c.text) for c in completions])
    )
    base.rewards.register("first")(
        lambda completions, context: [float(c.text[0]) for c in completions]
    )
    base.rewards.register("short")(lambda completions, context: np.zeros(len(completions) - 1))
    base.rewards.register("none")(lambda completions, context: [1.0, None, 2.0])
    # Finite in float64 alone; and finite itself, but not as a part of a sum.
    base.rewards.register("huge")(lambda completions, context: [0.0, 3e38, 1e39])
    base.rewards.register("large")(lambda completions, context: [0.0, 3e38, 0.0])
    # Works on a single row, fails on a batch.
    base.rewards.register("crowd")(
        lambda completions, context: [1.0 / (len(completions) == 1)] * len(completions)
    )


def text_completions(*texts):
    return [Completion(example("train", i), text=text) for i, text in enumerate(texts)]


def test_columns_weights_and_total(extra_rewards):
    scores = compute_rewards(
        text_completions("1", "22", "333"),
        {"length": 0.5, "first": -1.0, "format": 0.0},
        EMPTY_CONTEXT,
    )
    assert scores.names == ("length", "first", "format")
    np.testing.assert_array_equal(scores.matrix, [[1, 1, 0], [2, 2, 0], [3, 3, 0]])
    np.testing.assert_allclose(scores.total, [-0.5, -1, -1.5])


def test_rewards_that_configs_name_are_registered():
    assert {"accuracy", "format", "shapes_strict", "shapes_soft", "cycle", "matching"} <= set(
        base.rewards
    )
    assert shapes and matching and text


def test_unknown_name_lists_the_names():
    with pytest.raises(
        UserError, match="unknown reward 'beauty'; expected one of accuracy, .*cycle, .*format, "
    ):
        compute_rewards(text_completions("x"), {"beauty": 1.0}, EMPTY_CONTEXT)


def test_no_reward_at_all():
    with pytest.raises(UserError, match="no reward is configured"):
        compute_rewards(text_completions("x"), {}, EMPTY_CONTEXT)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "first",
            r"reward 'first' failed on row 1 \(record 'shapes-train-000001'\): "
            "ValueError: could not convert",
        ),
        (
            "none",
            r"reward 'none' must be finite in float32; "
            r"got nan on row 1 \(record 'shapes-train-000001'\)",
        ),
        (
            "huge",
            r"reward 'huge' must be finite in float32; "
            r"got 1e\+39 on row 2 \(record 'shapes-train-000002'\)",
        ),
        (
            "short",
            r"reward 'short' must return one number for each of 3 completions; got shape \(2,\)",
        ),
        ("crowd", r"reward 'crowd' failed on the batch as a whole: ZeroDivisionError"),
        ("shapes_strict", r"reward 'shapes_strict' failed on row 0 .*needs an image, but"),
        ("matching", r"reward 'matching' failed on row 0 .*needs an image, but"),
    ],
)
def test_a_failure_names_reward_row_record_and_cause(extra_rewards, name, message):
    with pytest.raises(UserError, match=message) as error:
        compute_rewards(text_completions("1", "x", "3"), {"length": 1.0, name: 1.0}, EMPTY_CONTEXT)
    assert "\n" not in str(error.value)


def test_a_weighted_sum_beyond_float32_names_the_record(extra_rewards):
    completions = text_completions("1", "x", "3")
    assert compute_rewards(completions, {"large": 1.0}, EMPTY_CONTEXT).total[1] == np.float32(3e38)
    message = r"the weighted sum of rewards must be finite in float32; got inf on row 1"
    with pytest.raises(UserError, match=message):
        compute_rewards(completions, {"large": 2.0}, EMPTY_CONTEXT)


def test_text_rewards_refuse_images():
    completion = Completion(example("train", 0), pixels=example("train", 0).image)
    with pytest.raises(UserError, match="'accuracy' failed on row 0 .*needs a text, but"):
        compute_rewards([completion], {"accuracy": 1.0}, EMPTY_CONTEXT)


def test_permuted_rows_permute_rewards(rng):
    templates = [
        "<think> x </think> <answer> {} </answer>",
        "{}",
        "<answer> {} </answer>",
        "no idea",
    ]
    records = [example("train", i) for i in range(12)]
    answers = [
        Completion(record, text=templates[i % 4].format(record.answer))
        for i, record in enumerate(records)
    ]
    images = [
        Completion(record, pixels=records[i - i % 3].image) for i, record in enumerate(records)
    ]

    order = rng.permutation(12)
    for completions, names in (
        (answers, ("accuracy", "format")),
        (images, ("shapes_strict", "shapes_soft", "cycle", "cycle_both", "pixel")),
    ):
        weights = {name: 1.0 for name in names}
        scores = compute_rewards(completions, weights, EMPTY_CONTEXT)
        permuted = compute_rewards([completions[i] for i in order], weights, EMPTY_CONTEXT)
        assert all(len(set(column)) > 1 for column in scores.matrix.T)
        np.testing.assert_array_equal(permuted.matrix, scores.matrix[order])
        np.testing.assert_array_equal(permuted.total, scores.total[order])
