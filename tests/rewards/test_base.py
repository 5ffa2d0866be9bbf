"""Combination of rewards: weights, order of rows, and a failing reward that never counts as 0."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest

from corl_jax.core import time_limits
from corl_jax.core.errors import StopRequested, UserError
from corl_jax.core.types import Completion
from corl_jax.data.shapes.examples import example
from corl_jax.engine.hooks import Preemption
from corl_jax.rewards import base, matching, shapes, text
from corl_jax.rewards.base import RewardContext, compute_rewards
from corl_jax.rewards.config import RewardOptions

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


def hang_on_two(completions, context):
    """Waits for ever at a completion "2", as a reward does that asks a server without an answer."""
    while any(c.text == "2" for c in completions):
        time.sleep(0.01)
    return np.zeros(len(completions))


def wait_in_a_crowd(completions, context):
    """Takes a fifth of a second per completion."""
    time.sleep(0.2 * len(completions))
    return np.zeros(len(completions))


@pytest.mark.parametrize(
    ("reward", "place"),
    [
        (hang_on_two, r"row 1 \(record 'shapes-train-000001'\)"),
        (wait_in_a_crowd, "a batch of 4 completions"),
    ],
)
def test_a_reward_that_hangs_is_ended_and_its_row_is_named(extra_rewards, reward, place):
    base.rewards.register("slow")(reward)
    context = RewardContext(options=RewardOptions(timeout=0.5))
    message = (
        f"reward 'slow' took longer than 0.5 seconds on {place}. Correct the reward, or set "
        "--config.rewards.options.timeout to more seconds, or to 0 for any time"
    )
    with pytest.raises(UserError, match=message):
        compute_rewards(text_completions("1", "2", "3", "4"), {"slow": 1.0}, context)


def test_a_signal_to_stop_ends_a_reward_that_hangs(extra_rewards, monkeypatch):
    monkeypatch.setattr(time_limits, "STOP_SECONDS", 0.1)
    base.rewards.register("slow")(hang_on_two)
    with Preemption() as preemption:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with pytest.raises(StopRequested):
            compute_rewards(text_completions("2"), {"slow": 1.0}, EMPTY_CONTEXT)
        assert preemption.requested()


@pytest.mark.parametrize("processes", [1, 2])
def test_one_of_several_processes_searches_for_a_row_alone(extra_rewards, monkeypatch, processes):
    """What all processes compute together would never end on one of them."""
    calls = []

    class Policy:
        def answers(self, images, questions):
            calls.append(len(questions))
            return questions

    def answer_then_fail(completions, context):
        context.policy_handle.answers(None, [c.text for c in completions])
        raise RuntimeError("the reward is wrong")

    monkeypatch.setattr(base.jax, "process_count", lambda: processes)
    base.rewards.register("asks")(answer_then_fail)
    place = r"row 0 \(record 'shapes-train-000000'\)" if processes == 1 else "the batch as a whole"
    with pytest.raises(UserError, match=f"failed on {place}: RuntimeError: the reward is wrong"):
        compute_rewards(text_completions("1", "2"), {"asks": 1.0}, RewardContext(Policy()))
    assert calls == ([2, 1] if processes == 1 else [2])


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
