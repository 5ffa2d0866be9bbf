"""Choosing records by their questions: the right ones, in order, the same every time."""

from __future__ import annotations

import pytest

from corl_jax.core.errors import UserError
from corl_jax.data.selection import select
from corl_jax.data.shapes import builder


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return builder.source(tmp_path_factory.mktemp("shapes"), "train", {"train": 64, "test": 8})


def test_what_is_said_about_records_is_theirs(source):
    assert [source.about(row) for row in range(64)] == [
        (r.qa_type, r.kind) for r in (source[i] for i in range(64))
    ]


@pytest.mark.parametrize(
    ("how", "fits"),
    [
        ({"questions": ("count",)}, lambda r: r.kind == "count"),
        ({"questions": ("count", "relation")}, lambda r: r.kind in ("count", "relation")),
        ({"qa_type": "MC"}, lambda r: r.qa_type == "MC"),
        (
            {"questions": ("count",), "qa_type": "OE"},
            lambda r: r.kind == "count" and r.qa_type == "OE",
        ),
    ],
)
def test_those_that_fit_in_order(source, how, fits):
    wanted = [record.id for record in (source[i] for i in range(64)) if fits(record)]
    chosen = select(source, **how)
    assert 0 < len(wanted) < 64 and [chosen[i].id for i in range(len(chosen))] == wanted
    few = select(source, **how, limit=3)
    assert [few[i].id for i in range(len(few))] == wanted[:3]


def test_nothing_asked_for_is_the_source_itself(source):
    assert select(source) is source
    assert [select(source, limit=2)[i].id for i in range(2)] == [source[0].id, source[1].id]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (
            {"questions": ("size",)},
            "kind 'size'; expected some of colour, count, existence, relation, shape",
        ),
        ({"qa_type": "mc"}, "data.qa_type='mc' is unknown; expected MC, OE"),
        ({"questions": ("relation",), "qa_type": "MC"}, "leave no record"),
        ({"limit": 65}, "data.limit=65 is more than the 64 records"),
        ({"limit": -1}, "data.limit=-1"),
    ],
)
def test_choices_that_cannot_be(source, how, says):
    with pytest.raises(UserError, match=says):
        select(source, **how)
