"""History resampling (SRPO): solved records leave, outcomes are part of the position."""

from __future__ import annotations

import json

import numpy as np
import pytest

from corl_jax.core.errors import UserError
from corl_jax.core.types import Record
from corl_jax.data.mixing.epochs import Epochs
from corl_jax.data.mixing.history import HistoryIterator, Outcomes
from corl_jax.data.mixing.quotas import Quotas


class Numbered:
    """Records named by their position."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return Record(str(int(index)), "", None, "", "", "OE")


def iterator_of(count=3, batch=1, weights=((1,),), names=("",), offsets=None):
    epochs = Epochs(names, offsets or (0, count), Quotas(weights, (0,), batch), seed=3)
    return HistoryIterator(
        Numbered(count), epochs, lambda records, step: [int(record.id) for record in records]
    )


def run(iterator, steps, share):
    """Rows of each step; ``share`` of (epoch, row) is noted after it."""
    taken = []
    for _ in range(steps):
        rows = next(iterator)
        step = iterator.get_state()["next_index"] - 1
        assert iterator.rows(step).tolist() == rows
        iterator.outcomes.add(rows, np.array([share(iterator.epoch, row) for row in rows]))
        taken.append(rows)
    return taken


def test_the_example_of_srpo():
    """P1 is solved, P2 has mixed outcomes, P3 none; in the next epoch P3 is solved, too."""
    outcomes = {(0, 0): 1.0, (0, 1): 0.5, (0, 2): 0.0, (1, 1): 0.5, (1, 2): 1.0}
    rows = run(iterator_of(), 8, lambda epoch, row: outcomes.get((epoch, row), 0.5))
    flat = [row for (row,) in rows]
    assert sorted(flat[:3]) == [0, 1, 2]
    assert sorted(flat[3:5]) == [1, 2]
    assert flat[5:] == [1, 1, 1]


def test_an_epoch_without_unsolved_records_has_all_of_them():
    rows = run(iterator_of(4, 2), 6, lambda epoch, row: 1.0)
    assert [sorted(rows[i] + rows[i + 1]) for i in (0, 2, 4)] == [[0, 1, 2, 3]] * 3


def test_only_complete_success_counts():
    outcomes = Outcomes(4)
    outcomes.add([0, 1, 2], np.array([1.0, 0.999, 7 / 8]))
    assert outcomes.percent.tolist() == [100, 99, 87, 255]
    assert outcomes.unsolved.tolist() == [False, True, True, True]


def test_every_step_can_be_resumed():
    """Two parts of different weight, whose epochs end at different steps."""

    def share(epoch, row):
        return (row * 7 + epoch) % 3 / 2

    arguments = (13, 4, ((1, 2),), ("a", "b"), (0, 5, 13))
    expected = run(iterator_of(*arguments), 20, share)
    running = iterator_of(*arguments)
    positions = [json.dumps(running.get_state())]
    for _ in range(19):
        run(running, 1, share)
        positions.append(json.dumps(running.get_state()))
    assert len({json.loads(position)["start"] for position in positions}) > 4
    for step, position in enumerate(positions):
        resumed = iterator_of(*arguments)
        resumed.set_state(json.loads(position))
        assert json.dumps(resumed.get_state()) == position
        assert run(resumed, min(3, 20 - step), share) == expected[step : step + 3]


def test_a_position_of_other_records_is_refused():
    state = iterator_of(3).get_state()
    with pytest.raises(UserError, match="must go on with the 3 records whose .*; got 4"):
        iterator_of(4).set_state(state)


def test_a_part_that_is_smaller_than_its_rows_of_a_step():
    iterator_arguments = (6, 4, ((1, 1),), ("a", "b"), (0, 1, 6))
    with pytest.raises(UserError, match="mixture.a must have at least 2 records.*; got 1"):
        iterator_of(*iterator_arguments)
