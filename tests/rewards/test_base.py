"""Scores: weights, order of rows, and that a reward that fails is never a silent zero."""

from __future__ import annotations

import numpy as np
import pytest

from corl_jax.core.errors import UserError
from corl_jax.core.types import Completion
from corl_jax.data.shapes.examples import example
from corl_jax.rewards import base, matching, shapes, text
from corl_jax.rewards.base import RewardContext, compute_rewards

NOTHING = RewardContext()


@pytest.fixture
def table(monkeypatch):
    """The registry with some rewards that only these tests have."""
    monkeypatch.setattr(base.rewards, "_items", dict(base.rewards._items))
    base.rewards.register("length")(
        lambda completions, context: np.array([len(c.text) for c in completions])
    )
    base.rewards.register("first")(
        lambda completions, context: [float(c.text[0]) for c in completions]
    )
    base.rewards.register("short")(lambda completions, context: np.zeros(len(completions) - 1))
    base.rewards.register("none")(lambda completions, context: [1.0, None, 2.0])
    base.rewards.register("crowd")(
        lambda completions, context: [1.0 / (len(completions) == 1)] * len(completions)
    )


def texts(*said):
    return [Completion(example("train", i), text=one) for i, one in enumerate(said)]


def test_columns_weights_and_total(table):
    scores = compute_rewards(
        texts("1", "22", "333"), {"length": 0.5, "first": -1.0, "format": 0.0}, NOTHING
    )
    assert scores.names == ("length", "first", "format")
    np.testing.assert_array_equal(scores.matrix, [[1, 1, 0], [2, 2, 0], [3, 3, 0]])
    np.testing.assert_allclose(scores.total, [-0.5, -1, -1.5])


def test_all_that_configs_name_is_registered():
    assert {"accuracy", "format", "shapes_strict", "shapes_soft", "cycle", "matching"} <= set(
        base.rewards
    )
    assert shapes and matching and text


def test_unknown_name_lists_the_names():
    with pytest.raises(
        UserError, match="unknown reward 'beauty'; expected one of accuracy, .*cycle, .*format, "
    ):
        compute_rewards(texts("x"), {"beauty": 1.0}, NOTHING)


def test_no_reward_at_all():
    with pytest.raises(UserError, match="no reward is configured"):
        compute_rewards(texts("x"), {}, NOTHING)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "first",
            r"reward 'first' failed on row 1 \(record 'shapes-train-000001'\): ValueError: could not convert",
        ),
        ("none", r"reward 'none' gave nan on row 1 \(record 'shapes-train-000001'\)"),
        ("short", r"reward 'short' gave shape \(2,\); expected one number for each of 3"),
        ("crowd", r"reward 'crowd' failed on the batch as a whole: ZeroDivisionError"),
        ("shapes_strict", r"reward 'shapes_strict' failed on row 0 .*looks at pictures"),
        ("matching", r"reward 'matching' failed on row 0 .*looks at pictures, but"),
    ],
)
def test_a_failure_names_reward_row_record_and_cause(table, name, says):
    with pytest.raises(UserError, match=says) as error:
        compute_rewards(texts("1", "x", "3"), {"length": 1.0, name: 1.0}, NOTHING)
    assert "\n" not in str(error.value)


def test_text_rewards_refuse_pictures():
    picture = Completion(example("train", 0), pixels=example("train", 0).image)
    with pytest.raises(UserError, match="'accuracy' failed on row 0 .*reads texts"):
        compute_rewards([picture], {"accuracy": 1.0}, NOTHING)


def test_permuted_rows_permute_rewards(rng):
    said = ["<think> x </think> <answer> {} </answer>", "{}", "<answer> {} </answer>", "no idea"]
    records = [example("train", i) for i in range(12)]
    written = [Completion(r, text=said[i % 4].format(r.answer)) for i, r in enumerate(records)]
    drawn = [Completion(r, pixels=records[i - i % 3].image) for i, r in enumerate(records)]
    order = rng.permutation(12)
    for completions, names in (
        (written, ("accuracy", "format")),
        (drawn, ("shapes_strict", "shapes_soft", "cycle", "cycle_both", "pixel")),
    ):
        table = {name: 1.0 for name in names}
        straight = compute_rewards(completions, table, NOTHING)
        mixed = compute_rewards([completions[i] for i in order], table, NOTHING)
        assert all(len(set(column)) > 1 for column in straight.matrix.T)
        np.testing.assert_array_equal(mixed.matrix, straight.matrix[order])
        np.testing.assert_array_equal(mixed.total, straight.total[order])
