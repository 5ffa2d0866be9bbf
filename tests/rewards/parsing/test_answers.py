"""Parsing of answers: tables of what counts, and time that is bounded for long texts."""

from __future__ import annotations

import time

import pytest

from corl_jax.data.answers.options import extract_option
from corl_jax.data.answers.reading import extract_answer, is_correct
from corl_jax.data.answers.words import normalize_answer
from corl_jax.rewards.parsing.answers import token_f1, well_formed

CHOICES = ("blue", "red", "a green circle")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>x</think><answer>y</answer>", True),
        (" <think> red circle </think> \n <answer> 2 </answer>\n", True),
        ("<think>a\nb</think><answer>c\nd</answer>", True),
        ("<think></think><answer></answer>", True),
        ("", False),
        ("<answer>y</answer>", False),
        ("<think>x</think> y", False),
        ("<think>x</think>...<answer>y</answer>", False),
        ("so: <think>x</think><answer>y</answer>", False),
        ("<think>x</think><answer>y</answer> done", False),
        ("<answer>y</answer><think>x</think>", False),
        ("<think></think><think>x</think><answer></answer>", False),
        ("<think>x</think><answer>y</answer><answer>y</answer>", False),
        ("<think>x<answer>y</answer></think><answer>y</answer>", False),
        ("<think>x</think><answer><answer>y</answer></answer>", False),
        ("<Think>x</Think><Answer>y</Answer>", False),
        ("<think>x</think><answer>y</answer", False),
    ],
)
def test_well_formed(text, expected):
    assert well_formed(text) is expected


def test_outer_white_space_counts_only_if_strict():
    text = "<think>x</think> <answer>y</answer>"
    assert well_formed(text, strict_whitespace=True)
    assert not well_formed(" " + text, strict_whitespace=True)
    assert not well_formed(text + "\n", strict_whitespace=True)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>x</think><answer> two </answer>", "two"),
        ("<answer>one\ntwo</answer>", "one\ntwo"),
        ("<answer>one</answer> no, <answer>two</answer>", "two"),
        ("<answer>one <answer>two</answer>", "two"),
        ("<answer>one</answer> <answer>two", "one"),
        ("<answer></answer>", ""),
        ("  two \n", "two"),
        ("two</answer>", "two</answer>"),
    ],
)
def test_the_last_well_formed_answer_is_extracted(text, answer):
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("Two.", "2"),
        ("  TWELVE red, circles! ", "12 red circles"),
        ("the red circle", "red circle"),
        ("A", "a"),
        ("3.5", "3.5"),
        ("yes ; no", "yes no"),
        ("someone", "someone"),
        ("?", "?"),
    ],
)
def test_normalize_answer(text, normalized):
    assert normalize_answer(text) == normalized


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        (" (b) ", "B"),
        ("[B]", "B"),
        ("B.", "B"),
        ("B) red", "B"),
        ("B. red", "B"),
        ("B.\nred", "B"),
        ("(B) Red.", "B"),
        ("red", "B"),
        ("The red.", "B"),
        ("a", "A"),
        ("a green circle", "C"),
        ("green circle", "C"),
        ("the answer is B", "B"),
        ("Answer: (c)", "C"),
        ("The correct option is a.", "A"),
        ("B. blue", None),
        ("D", None),
        ("the answer is D", None),
        ("answerb", None),
        ("a circle", None),
        ("I see a red one", None),
        ("A or B", None),
        ("AB", None),
        ("red blue", None),
        ("?", None),
        ("", None),
    ],
)
def test_options(answer, letter):
    assert extract_option(answer, CHOICES) == letter


def test_without_options_only_letters_are_read():
    assert extract_option("(e)", ()) == "E"
    assert extract_option("E. red", ()) is None and extract_option("red", ()) is None
    assert is_correct("<answer>B</answer>", "B", "MC")
    assert not is_correct("<answer>red</answer>", "B", "MC")


def test_a_repeated_option_text_is_ambiguous_but_its_letter_is_not():
    assert extract_option("red", ("red", "red")) is None
    assert extract_option("b) red", ("red", "red")) == "B"


@pytest.mark.parametrize(
    ("completion", "reference_answer", "qa_type", "correct"),
    [
        ("<think>b</think><answer>B</answer>", "B", "MC", True),
        ("<answer>A</answer>", "B", "MC", False),
        ("<answer>red</answer>", "(B).", "MC", True),
        ("<answer>red</answer>", "<answer>B</answer>", "MC", True),
        ("red", "B", "MC", True),
        ("it is red, B", "B", "MC", False),
        ("<answer>two</answer>", "2", "OE", True),
        ("<answer>\n2.\n</answer>", "two", "OE", True),
        ("2", "two", "OE", True),
        ("<think>two</think>", "two", "OE", False),
        ("<answer>two circles</answer>", "two", "OE", False),
        ("<answer>A</answer>", "a", "OE", True),
        ("", "A", "OE", False),
        ("the", "A", "OE", False),
        ("<answer></answer>", "yes", "OE", False),
    ],
)
def test_correct_or_wrong(completion, reference_answer, qa_type, correct):
    choices = CHOICES if qa_type == "MC" else ()
    assert is_correct(completion, reference_answer, qa_type, choices) is correct


def test_token_f1_by_hand():
    assert token_f1("a red circle", "the red circle") == 1
    assert token_f1("red circle", "red square") == pytest.approx((0.5 + 0) / 2)
    assert token_f1("red", "red") == 1 and token_f1("", "red") == 0 and token_f1("", "") == 1
    swapped = token_f1("a red circle and a blue square", "a blue circle and a red square")
    assert swapped == pytest.approx((1 + 1 / 4) / 2)  # of the bigrams only "circle and" is shared
    assert token_f1("red blue", "blue red") < token_f1("red blue", "red blue")


N = 100_000
# Texts that would make a careless pattern slow.
LONG_TEXTS = {
    "letters": "x" * N,
    "open answer": "<answer>" + "x" * N,
    "nested answers": "<answer>" * (N // 8),
    "nested thoughts": "<think>" * (N // 7) + "</think>" * 9,
    "pairs of thoughts": "<think>x</think>" * (N // 16),
    "pairs of answers": "<answer>x</answer>" * (N // 18),
    "ends": "</answer>" * (N // 9),
    "gap": "<think>x</think>" + " " * N + "x",
    "space after a word": "answer" + " " * N + "xx",
    "space after a letter": "b)" + " " * N + "xx",
    "brackets": "b" + ")" * N + "x",
    "articles": "a " * (N // 2) + "!",
    "dots": "." * N,
}


@pytest.mark.parametrize("name", LONG_TEXTS)
def test_long_texts_take_bounded_time(name):
    start = time.process_time()
    well_formed(LONG_TEXTS[name])
    is_correct(LONG_TEXTS[name], "B", "MC", CHOICES)
    is_correct(LONG_TEXTS[name], "B", "OE")
    token_f1(LONG_TEXTS[name], "a red circle")
    # Below a second on a quiet machine; a pattern that goes back over such a text takes minutes.
    assert time.process_time() - start < 10
