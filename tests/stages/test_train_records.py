"""``config.data.mixture``: which records a stage opens and checks, and what is refused."""

from __future__ import annotations

import pytest

from corl_jax.core.errors import UserError
from corl_jax.data.mixing.history import HistoryIterator
from corl_jax.data.records import require
from corl_jax.stages.config import DataConfig
from corl_jax.stages.run_inputs import describe_inputs
from corl_jax.stages.train_records import TrainRecords

COUNTS = {"source": "shapes", "question_kinds": ["count"], "limit": 10}
OTHERS = {"source": "shapes", "qa_type": "MC", "template": "r1_v"}


def train_records(mixture, rows=None, is_paired=False, **data):
    config = {"seed": 5, "data": vars(DataConfig()) | {"mixture": mixture} | data}
    return TrainRecords(config, rows or {"image": 4, "text": 8}, is_paired=is_paired)


def ids_of(order, records, steps):
    return [order.record_ids(records, step) for step in range(steps)]


def test_parts_are_selected_named_and_put_by_their_own_template(small_world):
    with small_world():
        order = train_records({"counts": COUNTS, "others": OTHERS})
        records = order.open({"image": (), "text": ()})
    assert order.batch_size == 8 and order.text_offset == 0 and order.addresses == {"shapes"}
    assert [len(part.records) for part in records.parts][0] == 10
    assert {records[i].kind for i in range(10)} == {"count"}
    assert {records[i].template for i in (0, 10)} == {"as_is", "r1_v"}
    assert records[10].qa_type == "MC"

    # The manifest knows the parts; which rows are selected is part of the config.
    inputs = describe_inputs([], records)["records"]
    with small_world():
        renamed = train_records({"counts": COUNTS, "rest": OTHERS}).open({"image": (), "text": ()})
    assert inputs["count"] == len(records)
    assert describe_inputs([], renamed)["records"]["digest"] != inputs["digest"]


def test_checks_are_those_of_the_tasks_that_use_a_part(small_world):
    seen = {"image": [], "text": []}
    checks = {task: [lambda record, task=task: seen[task].append(record.kind)] for task in seen}
    weights = {"image_weight": [1], "text_weight": [0]}
    with small_world():
        order = train_records({"counts": COUNTS | weights, "others": OTHERS})
        records = order.open(checks)
    assert len(seen["image"]) == len(records) and len(seen["text"]) == len(records) - 10
    assert "count" in seen["image"]

    # The tasks have records of their own then.
    assert (order.batch_size, order.text_offset) == (12, 4)
    for ids in ids_of(order, records, 5):
        assert sum(id_.startswith("counts/") for id_ in ids[:4]) == 2
        assert not any(id_.startswith("counts/") for id_ in ids[4:])


def test_a_part_is_left_out_where_no_task_of_the_stage_uses_it():
    absent = {"source": "/nowhere", "image_weight": [0]}
    order = train_records({"counts": COUNTS, "absent": absent}, {"image": 4})
    assert order.addresses == {"shapes"}


def test_weights_change_by_stage(small_world):
    mixture = {"counts": COUNTS | {"image_weight": [1, 0], "text_weight": [1, 0]}, "others": OTHERS}
    with small_world():
        order = train_records(mixture, stages=(3,))
        records = order.open({"image": (), "text": ()})
    shares = [sum(id_.startswith("counts/") for id_ in ids) for ids in ids_of(order, records, 6)]
    assert shares == [4, 4, 4, 0, 0, 0]


def test_without_a_mixture_there_is_the_order_of_the_seed(small_world):
    with small_world():
        order = train_records({})
        records = order.open({"image": (), "text": ()})
    assert order.order(records) is None and order.addresses == {"shapes"}
    # As in version 0.1.0 and before it.
    assert ids_of(order, records, 2) == [
        tuple(records[i].id for i in rows)
        for rows in ([63, 52, 91, 51, 59, 57, 73, 21], [48, 22, 89, 30, 90, 10, 81, 75])
    ]
    assert isinstance(order.unsolved_batches(records, lambda records, step: step), HistoryIterator)


REFUSED = [
    ({"a": {}}, {}, "must have names without '/', each of a block with a source; got {'a': {}}"),
    ({"a": "shapes"}, {}, "must have names without '/'"),
    ({"a/b": COUNTS}, {}, "must have names without '/'"),
    (
        {"a": COUNTS | {"weight": 1}},
        {},
        "config.data.mixture.a must have the keys .*got weight too",
    ),
    ({"a": COUNTS | {"image_weight": 1}}, {}, "config.data.mixture.a.image_weight must be a tuple"),
    (
        {"a": COUNTS | {"text_weight": [1, 2]}},
        {},
        "text_weight must have 1 weight, or 1, .*; got 2",
    ),
    (
        {"a": COUNTS | {"text_weight": [0]}},
        {},
        "a part of positive text_weight in stage 1 of 1; got",
    ),
    (
        {"a": COUNTS | {"template": "r1"}},
        {},
        "config.data.mixture.a.template must be one of as_is, ",
    ),
    (
        {"a": COUNTS | {"image_weight": [0]}, "b": OTHERS},
        {"is_paired": True},
        "must have equal image_weight and text_weight where both tasks use the same records",
    ),
]


@pytest.mark.parametrize(("mixture", "options", "message"), REFUSED)
def test_what_is_refused(mixture, options, message):
    with pytest.raises(UserError, match=message) as error:
        train_records(mixture, **options)
    assert "\n" not in str(error.value)


def test_errors_of_a_part_name_it(small_world):
    with small_world():
        order = train_records({"counts": COUNTS | {"question_kinds": ["cuont"]}})
        with pytest.raises(
            UserError, match=r"config.data.mixture.counts.question_kinds must be kin"
        ):
            order.open({"image": (), "text": ()})

        def refuse(record):
            require(record, "the test", ("solution",))

        order = train_records({"counts": COUNTS})
        with pytest.raises(UserError, match=r"10 of 10 'counts' training records cannot be used: "):
            order.open({"image": [refuse], "text": ()})
        split = {"a": COUNTS | {"text_weight": [0]}, "b": OTHERS}
        order = train_records(split)
        with pytest.raises(UserError, match="history='unsolved' needs tasks that share"):
            order.unsolved_batches(order.open({"image": (), "text": ()}), None)
