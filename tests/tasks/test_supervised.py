"""Supervised batches: a pure function of seed and step, true of their images, with the shares of
captions, malformed answers and dropped prompts that were requested."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from corl_jax.core.errors import UserError
from corl_jax.data.answers.reading import is_correct
from corl_jax.data.shapes.captions import canonical_caption, list_objects
from corl_jax.data.shapes.examples import example
from corl_jax.data.shapes.parser import parse
from corl_jax.data.shapes.vocabulary import DESCRIBE, build_tokenizer
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.rewards.parsing.answers import well_formed
from corl_jax.tasks.supervised import MakeSftBatch


@pytest.fixture(scope="module")
def tokenizer():
    return TextTokenizer(build_tokenizer())


@pytest.fixture(scope="module")
def records():
    return tuple(example("train", i) for i in range(400))


@pytest.fixture(scope="module")
def make_batch(tokenizer):
    return MakeSftBatch(
        tokenizer,
        image_tokens=36,
        image_size=48,
        understanding_rows=400,
        seed=0,
        caption_share=0.25,
        malformed_share=0.4,
        cfg_dropout=0.1,
        generation_prompt_length=20,
        understanding_prompt_length=64,
        target_length=16,
    )


@pytest.fixture(scope="module")
def batch(make_batch, records):
    return make_batch(records, 3)


def ids_without_padding(prompts, row):
    return list(prompts.tokens[row][prompts.mask[row]])


def same_batches(left, right):
    return all(
        np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    )


def test_a_batch_is_a_pure_function_of_seed_and_step(make_batch, records, batch):
    few = records[:40]
    assert same_batches(make_batch(few, 3), make_batch(few, 3))
    assert not same_batches(make_batch(few, 3), make_batch(few, 4))
    assert not same_batches(make_batch(few, 3), dataclasses.replace(make_batch, seed=1)(few, 3))
    assert same_batches(make_batch(records, 3), batch)


def test_processes_make_one_batch_together(make_batch, records):
    expected = make_batch(records[:40], 3)
    halves = [
        dataclasses.replace(make_batch, local_row_ids=local_row_ids)(records[:40], 3)
        for local_row_ids in (lambda n: range(n // 2), lambda n: range(n // 2, n))
    ]
    assert same_batches(jax.tree.map(lambda *leaves: np.concatenate(leaves), *halves), expected)


def test_targets_include_their_end_token(tokenizer, batch):
    lengths = batch.understanding.mask.sum(1)
    assert batch.understanding.tokens.shape == (400, 16) and lengths.min() >= 2
    for tokens, mask, length in zip(
        batch.understanding.tokens, batch.understanding.mask, lengths, strict=True
    ):
        np.testing.assert_array_equal(mask, np.arange(16) < length)
        assert tokens[length - 1] == tokenizer.eos_id
        assert tokenizer.eos_id not in tokens[: length - 1]
        assert np.all(tokens[length:] == tokenizer.pad_id)


def test_targets_are_true_and_shares_are_as_requested(tokenizer, records, batch):
    captions = malformed = dropped = 0
    for row, record in enumerate(records):
        # Understanding: a true caption, or the right answer to the record's question.
        target = tokenizer.decode(batch.understanding.tokens[row])
        question_ids = ids_without_padding(batch.understanding.prompts, row)
        if question_ids == tokenizer.question_prompt(DESCRIBE, 36):
            captions += 1
            caption = canonical_caption(parse(record.image).scene)
            assert target.split() == caption.replace(",", " ,").split()
        else:
            assert question_ids == tokenizer.question_prompt(record.question, 36)
            assert (
                is_correct(target, record.answer, record.qa_type, record.choices)
                or "<answer>" not in target
            )
            assert record.answer in target
            malformed += not well_formed(target)

        # Generation: the caption or nothing, and the record's image.
        prompt_ids = ids_without_padding(batch.generation.prompts, row)
        expected = tokenizer.image_generation_prompt(record.prompt)
        unconditional = tokenizer.unconditional_prompt(expected)
        dropped += prompt_ids == unconditional
        assert prompt_ids in (expected, unconditional)
        np.testing.assert_allclose(
            (batch.generation.images[row] + 1) * 127.5, record.image, atol=1e-3
        )

    assert 60 <= captions <= 140  # 100 expected, five standard errors
    assert 0.28 <= malformed / (400 - captions) <= 0.52
    assert 10 <= dropped <= 75


def test_shares_of_zero_and_one(make_batch, tokenizer, records):
    few = records[:30]
    no_shares = {"caption_share": 0.0, "malformed_share": 0.0, "cfg_dropout": 0.0}
    strict = dataclasses.replace(make_batch, **no_shares)(few, 0)
    assert all(well_formed(tokenizer.decode(row)) for row in strict.understanding.tokens)
    for row, record in enumerate(few):
        expected = tokenizer.image_generation_prompt(record.prompt)
        assert ids_without_padding(strict.generation.prompts, row) == expected

    full_shares = {"caption_share": 0.0, "malformed_share": 1.0, "cfg_dropout": 1.0}
    loose = dataclasses.replace(make_batch, **full_shares)(few, 0)
    assert not any(well_formed(tokenizer.decode(row)) for row in loose.understanding.tokens)
    for row in range(30):
        prompt_ids = ids_without_padding(loose.generation.prompts, row)
        assert set(prompt_ids[1:-1]) == {tokenizer.pad_id}
        assert prompt_ids[0] == tokenizer.bos_id and prompt_ids[-1] == tokenizer.boi_id


def test_without_parsing_the_targets_are_solutions(make_batch, tokenizer, records):
    """Images without shapes cannot be parsed, so this also shows that none is."""
    solution = "<think> a red circle </think> <answer> red </answer>"
    black_image = np.zeros((20, 30, 3), np.uint8)
    solved_records = [
        dataclasses.replace(record, image=black_image, solution=solution) for record in records[:12]
    ]
    make_other_batch = dataclasses.replace(make_batch, parse_images=False, caption_share=0.5)
    batch = make_other_batch(solved_records, 0)

    captions = 0
    for row, record in enumerate(solved_records):
        question_ids = ids_without_padding(batch.understanding.prompts, row)
        is_caption = question_ids == tokenizer.question_prompt(DESCRIBE, 36)
        captions += is_caption
        expected_ids = tokenizer.encode(record.prompt if is_caption else solution)
        target = tokenizer.decode(batch.understanding.tokens[row])
        assert target.split() == tokenizer.decode(expected_ids).split()
    assert 0 < captions < 12

    with pytest.raises(UserError, match=f"record '{records[0].id}' has no solution to imitate"):
        make_other_batch(records[:12], 0)


def test_images_to_read_are_padded_and_images_to_draw_are_cropped(make_batch, records):
    image = np.full((20, 60, 3), 255, np.uint8)
    wide = dataclasses.replace(records[0], image=image, solution="<answer>a</answer>")
    settings = {"parse_images": False, "understanding_rows": 1}
    batch = dataclasses.replace(make_batch, **settings)((wide,), 0)
    grey = np.float32(127) / 255 * 2 - 1
    assert np.isclose(batch.understanding.prompts.images[0, :12], grey).all()
    assert (batch.generation.images == 1).all()


def test_fewer_understanding_rows_than_generation_rows(make_batch, records):
    batch = dataclasses.replace(make_batch, understanding_rows=5)(records[:12], 0)
    prompts = batch.understanding.prompts
    assert len(prompts.tokens) == len(batch.understanding.tokens) == len(prompts.images) == 5
    assert len(batch.generation.prompts.tokens) == len(batch.generation.images) == 12


def test_documents_alone(make_batch, tokenizer, records):
    rows = {"understanding_rows": 0, "generation_rows": 0, "document_rows": 12}
    make_documents = dataclasses.replace(make_batch, **rows)
    batch = make_documents(records[:20], 3)
    assert batch.understanding is None and batch.generation is None
    assert same_batches(batch, make_documents(records[:20], 3))
    assert not same_batches(batch, make_documents(records[:20], 4))

    documents = batch.documents
    assert (
        documents.tokens.shape == (12, 128) and (documents.prompts.tokens == tokenizer.bos_id).all()
    )
    for row, record in enumerate(records[:12]):
        # The scene in words, then at least four questions; the answers alone are imitated.
        text = tokenizer.decode(documents.tokens[row][documents.mask[row]])
        scene = parse(record.image).scene
        thought = tokenizer.decode(tokenizer.encode(f"<think> {list_objects(scene)} </think>"))
        assert text.startswith(thought)
        answers = tokenizer.decode(documents.tokens[row][documents.is_answer[row]])
        assert (
            answers.count("<answer>") == answers.count("</answer>") == text.count("<answer>") >= 4
        )
        assert "?" not in answers and "<think>" not in answers


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"understanding_rows": 0, "generation_rows": 0},
            "config.sft must have rows of some kind; got 0 for understanding_rows",
        ),
        (
            {"document_rows": 4, "parse_images": False},
            "document_rows=4 writes documents of the embedded world, so all records must be of",
        ),
        (
            {"document_rows": 4, "document_length": 12},
            "config.sft.document_length must have room for a scene and a question.*; got 12",
        ),
        ({"malformed_share": 1.5}, "malformed_share must be a share from 0 to 1; got 1.5"),
        ({"cfg_dropout": -0.1}, "cfg_dropout must be a share from 0 to 1; got -0.1"),
        (
            {"target_length": 4},
            "its target has 12 tokens, at most 4 are allowed; .*sft.target_length=16",
        ),
        ({"understanding_prompt_length": 40}, "at most 40 are allowed"),
    ],
)
def test_bad_settings(make_batch, records, change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(make_batch, **change)(records[:10], 0)
