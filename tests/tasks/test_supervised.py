"""Lessons: a pure function of seed and step, true of their pictures, as sloppy and as silent as asked for."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from corl_jax.core.errors import UserError
from corl_jax.data.shapes.captions import describe
from corl_jax.data.shapes.examples import example
from corl_jax.data.shapes.parser import parse
from corl_jax.data.shapes.vocabulary import DESCRIBE, build_tokenizer
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.rewards.parsing.answers import is_right, well_formed
from corl_jax.tasks.supervised import MakeSftBatch


@pytest.fixture(scope="module")
def tokenizer():
    return TextTokenizer(build_tokenizer())


@pytest.fixture(scope="module")
def records():
    return tuple(example("train", i) for i in range(400))


@pytest.fixture(scope="module")
def supervise(tokenizer):
    return MakeSftBatch(
        tokenizer,
        image_tokens=36,
        image_size=48,
        reading_rows=400,
        seed=0,
        caption_share=0.25,
        sloppy_share=0.4,
        dropout=0.1,
        drawing_length=20,
        reading_length=64,
        target_length=16,
    )


@pytest.fixture(scope="module")
def lesson(supervise, records):
    return supervise(records, 3)


def asked(lesson, row):
    return list(lesson.reading.tokens[row][lesson.reading.mask[row]])


def drawn(lesson, row):
    return list(lesson.drawing.tokens[row][lesson.drawing.mask[row]])


def equal(one, other):
    return all(
        np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


def test_a_lesson_is_a_pure_function_of_seed_and_step(supervise, records, lesson):
    few = records[:40]
    assert equal(supervise(few, 3), supervise(few, 3))
    assert not equal(supervise(few, 3), supervise(few, 4))
    assert not equal(supervise(few, 3), dataclasses.replace(supervise, seed=1)(few, 3))
    assert equal(supervise(records, 3), lesson)


def test_processes_make_one_lesson_together(supervise, records):
    whole = supervise(records[:40], 3)
    parts = [
        dataclasses.replace(supervise, share=share)(records[:40], 3)
        for share in (lambda n: range(n // 2), lambda n: range(n // 2, n))
    ]
    assert equal(jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts), whole)


def test_targets_end_in_the_end_token_which_counts(tokenizer, lesson):
    lengths = lesson.target_mask.sum(1)
    assert lesson.targets.shape == (400, 16) and lengths.min() >= 2
    for row, mask, length in zip(lesson.targets, lesson.target_mask, lengths, strict=True):
        np.testing.assert_array_equal(mask, np.arange(16) < length)
        assert row[length - 1] == tokenizer.eos_id and tokenizer.eos_id not in row[: length - 1]
        assert np.all(row[length:] == tokenizer.pad_id)


def test_all_that_is_said_is_true_and_the_shares_are_as_asked_for(tokenizer, records, lesson):
    captions = sloppy = silent = 0
    for row, record in enumerate(records):
        said = tokenizer.decode(lesson.targets[row])
        if asked(lesson, row) == tokenizer.question_prompt(DESCRIBE, 36):
            captions += 1
            assert said.split() == describe(parse(record.image).scene).replace(",", " ,").split()
        else:
            assert asked(lesson, row) == tokenizer.question_prompt(record.question, 36)
            assert (
                is_right(said, record.answer, record.qa_type, record.choices)
                or "<answer>" not in said
            )
            assert record.answer in said
            sloppy += not well_formed(said)
        ids = tokenizer.drawing_prompt(record.prompt)
        silent += drawn(lesson, row) == tokenizer.unconditional(ids)
        assert drawn(lesson, row) in (ids, tokenizer.unconditional(ids))
        np.testing.assert_allclose((lesson.images[row] + 1) * 127.5, record.image, atol=1e-3)
    assert 60 <= captions <= 140  # 100 expected, five standard errors
    assert 0.28 <= sloppy / (400 - captions) <= 0.52
    assert 10 <= silent <= 75


def test_extremes(supervise, tokenizer, records):
    few = records[:30]
    strict = dataclasses.replace(supervise, caption_share=0.0, sloppy_share=0.0, dropout=0.0)(
        few, 0
    )
    assert all(well_formed(tokenizer.decode(row)) for row in strict.targets)
    assert all(drawn(strict, i) == tokenizer.drawing_prompt(r.prompt) for i, r in enumerate(few))
    loose = dataclasses.replace(supervise, caption_share=0.0, sloppy_share=1.0, dropout=1.0)(few, 0)
    assert not any(well_formed(tokenizer.decode(row)) for row in loose.targets)
    assert all(set(drawn(loose, i)[1:-1]) == {tokenizer.pad_id} for i in range(30))
    assert all(
        drawn(loose, i)[0] == tokenizer.bos_id and drawn(loose, i)[-1] == tokenizer.boi_id
        for i in range(30)
    )


def test_records_of_another_world_say_their_own_solution(supervise, tokenizer, records):
    """Nothing is parsed: the pictures show no shapes."""
    said = "<think> a red circle </think> <answer> red </answer>"
    blank = [
        dataclasses.replace(r, image=np.zeros((20, 30, 3), np.uint8), solution=said)
        for r in records[:12]
    ]
    other = dataclasses.replace(supervise, world=False, caption_share=0.5)
    lesson = other(blank, 0)
    captions = 0
    for row, record in enumerate(blank):
        caption = asked(lesson, row) == tokenizer.question_prompt(DESCRIBE, 36)
        captions += caption
        assert (
            tokenizer.decode(lesson.targets[row]).split()
            == tokenizer.decode(tokenizer.encode(record.prompt if caption else said)).split()
        )
    assert 0 < captions < 12
    with pytest.raises(UserError, match=f"record '{records[0].id}' has no solution to imitate"):
        other(records[:12], 0)


def test_fewer_rows_are_read_than_drawn(supervise, records):
    lesson = dataclasses.replace(supervise, reading_rows=5)(records[:12], 0)
    assert len(lesson.reading.tokens) == len(lesson.targets) == len(lesson.reading.images) == 5
    assert len(lesson.drawing.tokens) == len(lesson.images) == 12


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"reading_rows": 0}, "reading_rows=0"),
        ({"sloppy_share": 1.5}, "sloppy_share=1.5 is no share"),
        ({"dropout": -0.1}, "dropout=-0.1"),
        ({"target_length": 4}, "at most 4 are allowed; raise target_length"),
        ({"reading_length": 40}, "at most 40 are allowed"),
    ],
)
def test_bad_settings(supervise, records, change, says):
    with pytest.raises(UserError, match=says):
        dataclasses.replace(supervise, **change)(records[:10], 0)
