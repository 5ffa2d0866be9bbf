"""Tasks: rows stay in order, both tasks of a record stay paired, rollouts become completions."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from corl_jax.core.errors import UserError
from corl_jax.core.types import Rollout
from corl_jax.data.shapes.examples import example
from corl_jax.data.shapes.vocabulary import build_tokenizer
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.tasks.joint import JointPrompts
from corl_jax.tasks.text_to_image import TextToImage
from corl_jax.tasks.visual_qa import VisualQA


@pytest.fixture(scope="module")
def tokenizer():
    return TextTokenizer(build_tokenizer())


@pytest.fixture(scope="module")
def records():
    return tuple(example("train", i) for i in range(8))


@pytest.fixture(scope="module")
def text_to_image(tokenizer):
    return TextToImage(tokenizer, prompt_length=20)


@pytest.fixture(scope="module")
def visual_qa(tokenizer):
    return VisualQA(tokenizer, image_tokens=36, image_size=48, prompt_length=64)


def ids_without_padding(prompts, row):
    return list(prompts.tokens[row][prompts.mask[row]])


def test_image_prompts_row_by_row(tokenizer, records, text_to_image):
    prompt_batch = text_to_image.make_prompts(records)
    prompts = prompt_batch.prompts
    assert prompt_batch.records == records and prompts.images is None
    assert prompts.tokens.shape == (8, 20)
    assert np.all(prompts.tokens[:, -1] == tokenizer.boi_id)
    for row, record in enumerate(records):
        expected = tokenizer.image_generation_prompt(record.prompt)
        assert ids_without_padding(prompts, row) == expected


def test_every_question_comes_with_its_image(tokenizer, records, visual_qa):
    prompts = visual_qa.make_prompts(records).prompts
    assert prompts.tokens.shape == (8, 64) and prompts.images.shape == (8, 48, 48, 3)
    assert prompts.images.dtype == np.float32
    for row, record in enumerate(records):
        expected = tokenizer.question_prompt(record.question, 36)
        assert ids_without_padding(prompts, row) == expected
        np.testing.assert_allclose((prompts.images[row] + 1) * 127.5, record.image, atol=1e-3)


def test_a_prompt_that_is_too_long_is_an_error(tokenizer, records):
    with pytest.raises(UserError, match="at most 6 are allowed"):
        TextToImage(tokenizer, 6).make_prompts(records)


def test_image_completions_have_their_records(tokenizer, records, rng):
    task = TextToImage(tokenizer)
    pixels = rng.integers(0, 256, (8, 3, 48, 48, 3), np.uint8)
    rollout = Rollout(None, None, None, pixels, "image")
    completions = task.to_completions(task.make_prompts(records), rollout)

    ids = [completion.record.id for completion in completions]
    assert ids == [record.id for record in records for _ in range(3)]
    assert all(completion.text is None for completion in completions)
    np.testing.assert_array_equal(
        np.stack([completion.pixels for completion in completions]), pixels.reshape(-1, 48, 48, 3)
    )


def test_text_completions_stop_at_their_end_token(tokenizer, records, visual_qa):
    answers = [["red circle", "two"], ["yes", "<answer> no </answer>"]]
    tokens = np.full((2, 2, 9), tokenizer.pad_id, np.int32)
    mask = np.zeros((2, 2, 9), bool)
    for i in range(2):
        for j in range(2):
            ids = [*tokenizer.encode(answers[i][j]), tokenizer.eos_id]
            tokens[i, j, : len(ids)] = ids
            mask[i, j, : len(ids)] = True
    # What follows the end token must not be decoded.
    tokens[~mask] = tokenizer.encode("blue")[0]

    prompt_batch = visual_qa.make_prompts(records[:2])
    rollout = Rollout(tokens, mask, None, None, "text")
    completions = visual_qa.to_completions(prompt_batch, rollout)
    texts = [completion.text for completion in completions]
    assert texts == ["red circle", "two", "yes", "<answer> no </answer>"]
    ids = [completion.record.id for completion in completions]
    assert ids == [records[i].id for i in (0, 0, 1, 1)]
    assert completions[0].pixels is None


@pytest.mark.parametrize(("image_prompts", "text_prompts"), [(3, 8), (8, 3), (8, 8)])
def test_both_tasks_have_the_same_records(
    records, text_to_image, visual_qa, image_prompts, text_prompts
):
    joint = JointPrompts(text_to_image, visual_qa, image_prompts, text_prompts)
    assert joint.batch_size == 8
    prompts = joint(records, 0)
    assert set(prompts) == {"image", "text"}
    assert prompts["image"].records == records[:image_prompts]
    assert prompts["text"].records == records[:text_prompts]
    assert len(prompts["image"].prompts.tokens) == image_prompts
    assert len(prompts["text"].prompts.tokens) == text_prompts


@pytest.mark.parametrize(
    ("image_prompts", "text_prompts", "task"), [(4, 0, "image"), (0, 4, "text")]
)
def test_a_task_without_prompts_is_left_out(
    records, text_to_image, visual_qa, image_prompts, text_prompts, task
):
    joint = JointPrompts(text_to_image, visual_qa, image_prompts, text_prompts)
    prompts = joint(records[:4], 0)
    assert list(prompts) == [task] and prompts[task].records == records[:4]


def first_half(rows):
    return range(rows // 2)


def second_half(rows):
    return range(rows // 2, rows)


def test_each_of_two_processes_makes_its_own_prompts(records, text_to_image, visual_qa):
    expected = JointPrompts(text_to_image, visual_qa, 4, 8)(records, 0)
    halves = [
        JointPrompts(text_to_image, visual_qa, 4, 8, local_row_ids)(records, 0)
        for local_row_ids in (first_half, second_half)
    ]
    for task in ("image", "text"):
        assert halves[0][task].records + halves[1][task].records == expected[task].records
        tokens = [half[task].prompts.tokens for half in halves]
        np.testing.assert_array_equal(np.concatenate(tokens), expected[task].prompts.tokens)


@pytest.mark.parametrize(("image_prompts", "text_prompts"), [(0, 0), (-1, 4), (4, -1)])
def test_a_step_without_prompts_is_refused(text_to_image, visual_qa, image_prompts, text_prompts):
    message = f"must have image prompts or text prompts; got {image_prompts} and {text_prompts}"
    with pytest.raises(UserError, match=message):
        JointPrompts(text_to_image, visual_qa, image_prompts, text_prompts)


def test_questions_without_pictures(tokenizer, records, visual_qa):
    """The prompt has no place for an image, and a record needs none."""
    in_words = dataclasses.replace(visual_qa, with_pictures=False)
    template = "a picture of {prompt}.\n{question}"
    told = [dataclasses.replace(record, image=None, template=template) for record in records]
    for record in told:
        in_words.check_record(record)
        with pytest.raises(
            UserError, match="the text task needs a picture, which the record lacks"
        ):
            visual_qa.check_record(record)

    prompts = in_words.make_prompts(told).prompts
    assert prompts.images is None
    for row, record in enumerate(told):
        ids = ids_without_padding(prompts, row)
        assert tokenizer.image_id not in ids and tokenizer.boi_id not in ids
        words = f"a picture of {record.prompt}.\n{record.question}"
        start = tokenizer.encode(tokenizer.user + ":")
        assert ids[: 1 + len(start)] == [tokenizer.bos_id, *start]
        assert ids[1 + len(start) :][: len(tokenizer.encode(words))] == tokenizer.encode(words)
    with pytest.raises(
        UserError, match="the template of its question needs a prompt, which the rec"
    ):
        in_words.check_record(dataclasses.replace(told[0], prompt=""))
    with pytest.raises(UserError, match="the text task needs a question"):
        in_words.check_record(dataclasses.replace(told[0], question="", answer=""))
