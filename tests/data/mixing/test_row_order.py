"""Rows of a mixture: a pure function of (seed, step), epoch by epoch within each part."""

from __future__ import annotations

import dataclasses

import numpy as np

from corl_jax.data.mixing.mixture import Mixture, Part
from corl_jax.data.mixing.quotas import Quotas
from corl_jax.data.mixing.row_order import MixedOrder, Stream
from corl_jax.data.pipeline import batches_in_order
from corl_jax.data.shapes.examples import example
from corl_jax.data.sources.base import MemorySource


def order_of(seed=3, names=("a", "b"), offsets=(0, 5, 17), weights=((1,), (3,)), batch=8):
    quotas = Quotas.of_weights(weights, (0,), batch)
    return MixedOrder(names, offsets, (Stream("image+text", quotas),), seed)


def rows_of(order, steps):
    return np.concatenate([order(step) for step in range(steps)]).tolist()


def test_rows_are_a_function_of_seed_and_step():
    order = order_of()
    rows = rows_of(order, 12)
    # In any order of steps, from a new object.
    assert [order_of()(step).tolist() for step in (11, 0, 5)] == [
        rows[8 * step : 8 * step + 8] for step in (11, 0, 5)
    ]
    assert rows_of(order_of(seed=4), 12) != rows
    assert rows_of(order.with_seed_of("refill 1"), 12) != rows

    # A quarter of every step is of the small part, whose epochs follow each other.
    small = [row for row in rows if row < 5]
    assert all(sum(row < 5 for row in rows[8 * s : 8 * s + 8]) == 2 for s in range(12))
    epochs = [small[i : i + 5] for i in range(0, 20, 5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    large = [row for row in rows if row >= 5]
    assert sorted(large[:12]) == sorted(large[12:24]) == list(range(5, 17))


def test_the_order_within_a_part_does_not_depend_on_the_others():
    alone = rows_of(order_of(names=("b",), offsets=(0, 12), weights=((1,),)), 3)
    mixed = [row - 5 for row in rows_of(order_of(), 12) if row >= 5]
    assert mixed[:24] == alone[:24]


def test_tasks_with_other_weights_have_streams_of_their_own():
    streams = tuple(
        Stream(name, Quotas.of_weights(weights, (0,), size))
        for name, weights, size in (("image", ((1,), (0,)), 2), ("text", ((0,), (1,)), 3))
    )
    order = dataclasses.replace(order_of(), streams=streams)
    for step in range(4):
        rows = order(step)
        assert (rows[:2] < 5).all() and (rows[2:] >= 5).all()


def test_batches_of_a_mixture_and_their_position():
    parts = [
        Part(name, MemorySource(example("train", i) for i in range(count)))
        for name, count in (("a", 5), ("b", 12))
    ]
    mixture = Mixture(parts)
    assert len(mixture) == 17 and mixture[0].id.startswith("a/") and mixture[5].id.startswith("b/")
    assert mixture[5].prompt == mixture[0].prompt

    def ids(records, step):
        return step, [record.id for record in records]

    order = order_of()
    iterator = batches_in_order(mixture, order, transform=ids)
    expected = [(step, [mixture[row].id for row in order(step)]) for step in range(6)]
    assert [next(iterator) for _ in range(3)] == expected[:3]
    position = iterator.get_state()
    assert [next(iterator) for _ in range(3)] == expected[3:]
    again = batches_in_order(mixture, order, transform=ids)
    again.set_state(position)
    assert [next(again) for _ in range(3)] == expected[3:]
