"""Shares of a mixture: exact, one more row at a time, the same however they are computed."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corl_jax.data.mixing.quotas import Quotas, shares


@pytest.mark.parametrize(
    ("rows", "weights", "counts"),
    [
        (0, (1, 2), [0, 0]),
        (3, (1, 2), [1, 2]),
        (7, (1, 1), [3, 4]),
        (10, (7, 2, 1), [7, 2, 1]),
        (10, (0, 1, 0), [0, 10, 0]),
        (10**12, (1, 10**6 - 1), [10**6, 10**12 - 10**6]),
    ],
)
def test_shares_by_hand(rows, weights, counts):
    assert shares(rows, weights) == counts


WEIGHTS = st.lists(st.integers(0, 50), min_size=1, max_size=5).filter(any)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(weights=WEIGHTS, rows=st.integers(0, 10**6))
def test_one_more_row_is_one_more_of_one_part(weights, rows):
    now, then = shares(rows, weights), shares(rows + 1, weights)
    assert sum(now) == rows
    assert sorted(b - a for a, b in zip(now, then, strict=True)) == [0] * (len(now) - 1) + [1]
    for weight, count in zip(weights, now, strict=True):
        assert abs(count - Fraction(weight * rows, sum(weights))) <= len(weights)
        assert weight or not count


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(
    stages=st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3).filter(any), min_size=3, max_size=3),
    batch=st.integers(1, 9),
)  # fmt: skip
def test_every_row_of_a_part_has_its_number_once(stages, batch):
    quotas = Quotas(tuple(map(tuple, stages)), (0, 2, 5), batch)
    rows = [row for step in range(9) for row in quotas.parts_and_numbers(step)]
    assert len(rows) == 9 * batch
    for part in range(3):
        numbers = [number for of_part, number in rows if of_part == part]
        assert numbers == list(range(len(numbers)))
        assert quotas.counts(9 * batch)[part] == len(numbers)
    # A stage has no rows of a part of weight 0.
    for step in range(9):
        stage = 0 if step < 2 else 1 if step < 5 else 2
        assert all(stages[stage][part] for part, _ in quotas.parts_and_numbers(step))


def test_decimals_are_exact():
    assert Quotas.of_weights([(0.1, 1), (0.2, 0)], (0, 7), 4).weights == ((1, 2), (1, 0))
    assert Quotas.of_weights([(1e-3,), (1,)], (0,), 4).weights == ((1, 1000),)
