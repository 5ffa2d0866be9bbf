"""Selecting records by their questions: the right ones, in order, the same every time."""

from __future__ import annotations

import hashlib

import pytest

from corl_jax.core.errors import UserError
from corl_jax.data.selection import records_at, select_rows
from corl_jax.data.shapes import builder


def select(source, questions=(), qa_type="", limit=0):
    """The selected records of ``source``."""
    return records_at(source, select_rows(source, questions, qa_type, limit))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return builder.source(tmp_path_factory.mktemp("shapes"), "train", {"train": 64, "test": 8})


def test_types_and_kinds_are_those_of_the_records(source):
    assert [source.qa_type_and_kind(row) for row in range(64)] == [
        (record.qa_type, record.kind) for record in (source[i] for i in range(64))
    ]


@pytest.mark.parametrize(
    ("arguments", "matches"),
    [
        ({"questions": ("count",)}, lambda record: record.kind == "count"),
        (
            {"questions": ("count", "relation")},
            lambda record: record.kind in ("count", "relation"),
        ),
        ({"qa_type": "MC"}, lambda record: record.qa_type == "MC"),
        (
            {"questions": ("count",), "qa_type": "OE"},
            lambda record: record.kind == "count" and record.qa_type == "OE",
        ),
    ],
)
def test_matching_records_in_order(source, arguments, matches):
    expected = [record.id for record in (source[i] for i in range(64)) if matches(record)]
    selected = select(source, **arguments)
    assert 0 < len(expected) < 64
    assert [selected[i].id for i in range(len(selected))] == expected

    limited = select(source, **arguments, limit=3)
    assert [limited[i].id for i in range(len(limited))] == expected[:3]


def test_no_restriction_returns_the_source_itself(source):
    assert select(source) is source
    assert [select(source, limit=2)[i].id for i in range(2)] == [source[0].id, source[1].id]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"questions": ("size",)},
            "some of colour, count, existence, relation, shape; got 'size'",
        ),
        ({"qa_type": "mc"}, "data.qa_type must be one of MC, OE, or '' for all; got 'mc'"),
        ({"questions": ("relation",), "qa_type": "MC"}, "leave no record"),
        ({"limit": 65}, "data.limit must be at most the 64 selected records; got 65"),
        ({"limit": -1}, "data.limit must be a number of records, or 0 for all; got -1"),
    ],
)
def test_impossible_selections(source, arguments, message):
    with pytest.raises(UserError, match=message):
        select(source, **arguments)


def test_a_share_is_held_out_before_the_limit_counts(source):
    """The sides are all rows that match, whatever the limit of training is."""
    held_out, trained = (
        select_rows(source, ("count",), held_out=0.3, side=side) for side in ("test", "train")
    )
    assert sorted((*held_out, *trained)) == list(select_rows(source, ("count",)))
    ids = {source.text_record(row).id for row in held_out}
    assert ids == {
        source[row].id
        for row in select_rows(source, ("count",))
        if int(hashlib.sha256(source[row].id.encode()).hexdigest()[:16], 16) < 0.3 * 2**64
    }
    limited = select_rows(source, ("count",), limit=2, held_out=0.3, side="train")
    assert list(limited) == list(trained)[:2]
    with pytest.raises(UserError, match=f"at most the {len(trained)} selected records; got"):
        select_rows(source, ("count",), limit=len(trained) + 1, held_out=0.3)
