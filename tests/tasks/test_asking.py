"""Ways of asking: rows stay in order, both tasks of a record stay paired, what was written is read back."""

from __future__ import annotations

import numpy as np
import pytest

from corl_jax.core.errors import UserError
from corl_jax.core.types import Rollout
from corl_jax.data.shapes.examples import example
from corl_jax.data.shapes.vocabulary import build_tokenizer
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.tasks.joint import Joint
from corl_jax.tasks.text_to_image import TextToImage
from corl_jax.tasks.visual_qa import VisualQA


@pytest.fixture(scope="module")
def tokenizer():
    return TextTokenizer(build_tokenizer())


@pytest.fixture(scope="module")
def records():
    return tuple(example("train", i) for i in range(8))


@pytest.fixture(scope="module")
def asking(tokenizer):
    return VisualQA(tokenizer, image_tokens=36, image_size=48, prompt_length=64)


def real_ids(prompts, row):
    return list(prompts.tokens[row][prompts.mask[row]])


def test_drawing_asks_row_by_row(tokenizer, records):
    asked = TextToImage(tokenizer, 20).ask(records)
    assert asked.records == records and asked.prompts.images is None
    assert asked.prompts.tokens.shape == (8, 20) and np.all(
        asked.prompts.tokens[:, -1] == tokenizer.boi_id
    )
    for row, record in enumerate(records):
        assert real_ids(asked.prompts, row) == tokenizer.drawing_prompt(record.prompt)


def test_asking_shows_each_question_its_picture(tokenizer, records, asking):
    asked = asking.ask(records)
    assert asked.prompts.tokens.shape == (8, 64) and asked.prompts.images.shape == (8, 48, 48, 3)
    assert asked.prompts.images.dtype == np.float32
    for row, record in enumerate(records):
        assert real_ids(asked.prompts, row) == tokenizer.question_prompt(record.question, 36)
        np.testing.assert_allclose((asked.prompts.images[row] + 1) * 127.5, record.image, atol=1e-3)


def test_a_prompt_that_is_too_long_is_an_error(tokenizer, records):
    with pytest.raises(UserError, match="at most 6 are allowed"):
        TextToImage(tokenizer, 6).ask(records)


def test_pictures_come_back_beside_their_records(tokenizer, records, rng):
    task = TextToImage(tokenizer)
    pixels = rng.integers(0, 256, (8, 3, 48, 48, 3), np.uint8)
    back = task.read_back(task.ask(records), Rollout(None, None, None, pixels, "image"))
    assert [c.record.id for c in back] == [r.id for r in records for _ in range(3)]
    assert all(c.text is None for c in back)
    np.testing.assert_array_equal(np.stack([c.pixels for c in back]), pixels.reshape(-1, 48, 48, 3))


def test_texts_come_back_up_to_their_end(tokenizer, records, asking):
    said = [["red circle", "two"], ["yes", "<answer> no </answer>"]]
    tokens = np.full((2, 2, 9), tokenizer.pad_id, np.int32)
    mask = np.zeros((2, 2, 9), bool)
    for i in range(2):
        for j in range(2):
            ids = [*tokenizer.encode(said[i][j]), tokenizer.eos_id]
            tokens[i, j, : len(ids)], mask[i, j, : len(ids)] = ids, True
    tokens[~mask] = tokenizer.encode("blue")[0]  # what stands behind the end is not read
    back = asking.read_back(asking.ask(records[:2]), Rollout(tokens, mask, None, None, "text"))
    assert [c.text for c in back] == ["red circle", "two", "yes", "<answer> no </answer>"]
    assert [c.record.id for c in back] == [records[i].id for i in (0, 0, 1, 1)] and back[
        0
    ].pixels is None


@pytest.mark.parametrize(("pictures", "questions"), [(3, 8), (8, 3), (8, 8)])
def test_joint_asks_the_same_records_both_ways(tokenizer, records, asking, pictures, questions):
    joint = Joint(TextToImage(tokenizer, 20), asking, pictures, questions)
    assert joint.batch_size == 8
    both = joint(records, 0)
    assert set(both) == {"image", "text"}
    assert (
        both["image"].records == records[:pictures] and both["text"].records == records[:questions]
    )
    assert (
        len(both["image"].prompts.tokens) == pictures
        and len(both["text"].prompts.tokens) == questions
    )


@pytest.mark.parametrize(("pictures", "questions", "left"), [(4, 0, "image"), (0, 4, "text")])
def test_joint_with_one_task(tokenizer, records, asking, pictures, questions, left):
    only = Joint(TextToImage(tokenizer, 20), asking, pictures, questions)(records[:4], 0)
    assert list(only) == [left] and only[left].records == records[:4]


def first_half(rows):
    return range(rows // 2)


def second_half(rows):
    return range(rows // 2, rows)


def test_joint_on_one_of_two_processes_takes_its_share(tokenizer, records, asking):
    whole = Joint(TextToImage(tokenizer, 20), asking, 4, 8)(records, 0)
    halves = [
        Joint(TextToImage(tokenizer, 20), asking, 4, 8, share)(records, 0)
        for share in (first_half, second_half)
    ]
    for task in ("image", "text"):
        assert halves[0][task].records + halves[1][task].records == whole[task].records
        tokens = [half[task].prompts.tokens for half in halves]
        np.testing.assert_array_equal(np.concatenate(tokens), whole[task].prompts.tokens)


@pytest.mark.parametrize(("pictures", "questions"), [(0, 0), (-1, 4), (4, -1)])
def test_joint_refuses_to_ask_nothing(tokenizer, asking, pictures, questions):
    with pytest.raises(UserError, match=f"{pictures} prompts and {questions} questions"):
        Joint(TextToImage(tokenizer), asking, pictures, questions)
