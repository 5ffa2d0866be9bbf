"""What an answer states of a picture, and what it repeats, by hand."""

from __future__ import annotations

import dataclasses

import pytest

from corl_jax.core.errors import UserError
from corl_jax.core.types import Completion
from corl_jax.data.shapes.examples import example
from corl_jax.rewards.base import RewardContext, compute_rewards
from corl_jax.rewards.config import RewardOptions
from corl_jax.rewards.parsing.facts import facts_of, repeated_share, stated
from corl_jax.rewards.record_checks import record_checks


def record_with(**changes):
    """A record of photographs, whose caption is not of the embedded world."""
    return dataclasses.replace(example("train", 0), prompt="on a street", **changes)


def rewards_of(record, text, **weights):
    return float(
        compute_rewards([Completion(record, text=text)], weights, RewardContext()).total[0]
    )


@pytest.mark.parametrize(
    ("record", "facts"),
    [
        (record_with(class_answer="2 cats, hot dog"), {"cat", "hot dog"}),
        (record_with(box_answer="cat: [1, 1, 3, 5]; hot dogs: [0, 0, 9, 9]"), {"cat", "hot dog"}),
        (record_with(class_answer="dog", box_answer="cat: [1, 1, 3, 5]"), {"dog"}),
        (
            dataclasses.replace(example("train", 0), prompt="two red circles and a blue square"),
            {"red circl", "blue squar"},
        ),
    ],
)
def test_facts_of_a_record(record, facts):
    assert facts_of(record, "perception") == facts


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("I see two cats and a hot dog.", 1.0),
        ("A cat eats a hot, large dog.", 1 / 2),
        ("hot dogs; the cats", 1.0),
        ("concatenated hotdogs", 0.0),
        ("", 0.0),
    ],
)
def test_share_of_facts_that_a_text_states(text, share):
    assert stated(facts_of(record_with(class_answer="cat, hot dog"), "perception"), text) == share


def test_the_formula_of_the_paper_by_its_weights():
    record = record_with(class_answer="cat, dog, bird")
    weights = {"accuracy": 0.9, "format": 0.1, "perception": 0.7, "repetition": 1.0}
    right = f"<answer> {record.answer} </answer>"
    assert rewards_of(record, f"<think> a cat and a dog </think> {right}", **weights) == (
        pytest.approx(0.9 + 0.1 + 0.7 * 2 / 3)
    )
    # Only what the thinking names counts, and there must be some.
    assert rewards_of(record, f"a cat and a dog {right}", **weights) == pytest.approx(0.9)
    outside = f"<think> nothing </think> {right} cat dog bird"
    assert rewards_of(record, outside, perception=1.0) == 0
    assert rewards_of(record, "a cat", perception=1.0) == 0


def test_repetition_by_hand():
    # "a b a b a b" has the pairs ab, ba, ab, ba, ab: 2 of 5 are unique.
    assert repeated_share("a b a b a b", 2) == pytest.approx(0.6)
    assert repeated_share("a b", 3) == 0 and repeated_share("a b c", 2) == 0
    record = example("train", 0)
    loop = "one two three four five " * 8
    # 40 words have 21 runs of 20, of which 5 differ.
    assert rewards_of(record, loop, repetition=1.0) == pytest.approx(-2 * (1 - 5 / 21))
    assert rewards_of(record, "a red circle", repetition=1.0) == 0


def test_records_without_facts_are_refused():
    (check,) = record_checks(["perception"], RewardOptions(), lambda record: None)
    check(example("train", 0))
    check(record_with(class_answer="cat"))
    for record in (record_with(), record_with(box_answer="[[1, 1, 3, 5]]")):
        with pytest.raises(UserError, match="reward 'perception' needs the objects of the picture"):
            check(record)
        with pytest.raises(UserError, match="reward 'perception' failed on row 0"):
            rewards_of(record, "<think> a cat </think>", perception=1.0)
