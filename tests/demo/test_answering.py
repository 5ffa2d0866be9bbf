"""Answers: thinking and answer apart, and requests that cannot be fulfilled."""

import numpy as np
import pytest
from PIL import Image

from corl_jax.demo.answering import split_answer
from corl_jax.demo.ask_tab import ask_on_page
from corl_jax.demo.examples import is_known, prompt_examples, question_examples


@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [
        ("<think> a b </think> <answer> two </answer>", "a b", "two"),
        ("two", "", "two"),
        ("", "", ""),
        ("<think>cut here", "cut here", ""),
        ("<think>a<answer>b</answer>", "a", "b"),
        ("<think>a</think>b", "a", "b"),
        ("<think>a</think><think>b</think><answer>c</answer>", "a\nb", "c"),
        ("a</think><answer>b", "", "ab"),
        ("<answer>a</answer> or <answer>b</answer>", "", "b"),
        ("1 < 2 and <b>bold</b>", "", "1 < 2 and <b>bold</b>"),
    ],
)
def test_thinking_and_answer_are_apart(text, thinking, answer):
    parts = split_answer(text)
    assert (parts.thinking, parts.answer, parts.text) == (thinking, answer, text)


@pytest.fixture
def picture(tmp_path, rng):
    Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8)).save(tmp_path / "picture.png")
    return str(tmp_path / "picture.png")


def test_the_answer_is_that_of_the_policy(policies, dot_policy, picture):
    question = "how many objects are there?"
    *_, (status, html) = ask_on_page(policies, [""], (picture, question, 1.0, 3, 8))
    written = dot_policy.sample_answers([picture], [question], 1.0, 3, 8)[0]
    from markupsafe import escape

    assert str(escape(written.text)) in html and "Answered in" in status
    assert written.is_truncated and "cut at 8 tokens" in html


@pytest.mark.parametrize(
    ("content", "question", "text"),
    [
        (None, "how many objects are there?", "the picture must be there; got none"),
        (b"no picture", "how many objects are there?", "is not a picture in a known format"),
        ("png", "", "the question is empty"),
        ("png", "why is it so?", "does not know &#39;why&#39;"),
    ],
)
def test_bad_requests_are_sentences(policies, picture, tmp_path, content, question, text):
    path = None if content is None else picture
    if isinstance(content, bytes):
        path = str(tmp_path / "broken.png")
        (tmp_path / "broken.png").write_bytes(content)
    *_, (status, html) = ask_on_page(policies, [""], (path, question, 0, 0, 16))
    assert text in status and 'role="alert"' in status and html == {"__type__": "update"}
    assert str(tmp_path) not in status


def test_examples_are_of_the_world_that_the_tokenizer_knows(dot_policy):
    tokenizer = dot_policy.tokenizer
    prompts, questions = prompt_examples(tokenizer), question_examples(tokenizer)
    assert len(prompts) == len(set(prompts)) == 5 and len(questions) == 5
    for text in (*prompts, *questions):
        assert is_known(text, tokenizer)


def test_other_tokenizers_get_general_examples():
    class AllWords:
        def encode(self, text):
            return [1]

    assert any("bicycle" in prompt for prompt in prompt_examples(AllWords()))
    assert "How many objects are there?" in question_examples(AllWords())
