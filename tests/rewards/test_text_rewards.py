"""Text rewards: tables of values, order of rows, errors that name the row, and bounded time."""

from __future__ import annotations

import dataclasses
import importlib.util
import time

import numpy as np
import pytest

from corl_jax.core.errors import UserError
from corl_jax.core.types import Completion
from corl_jax.data.answers.words import normalize_answer
from corl_jax.data.shapes.examples import example
from corl_jax.rewards.base import RewardContext, compute_rewards
from corl_jax.rewards.parsing.boxes import MAX_BOXES, Box, read_boxes
from corl_jax.rewards.parsing.classes import normalize_class
from corl_jax.rewards.parsing.math_equal import MAX_ANSWER_LENGTH, FormulaChecker
from corl_jax.rewards.parsing.soft_jaccard import soft_jaccard

EMPTY_CONTEXT = RewardContext()
CHOICES = ("blue", "red", "a green circle")
BOX, PAIR = "[10, 10, 30, 50]", "[[0, 0, 10, 10], [20, 20, 40, 40]]"
POSITIONS = (
    "[{'Position': [0, 0, 10, 10], 'Confidence': 1}, "
    "{'Position': [20, 20, 40, 40], 'Confidence': 0.5}]"
)
LABELLED = (
    '[{"bbox_2d": [0, 0, 10, 10], "label": "cat"}, {"bbox_2d": [20, 20, 40, 40], "label": "dog"}]'
)


def completion(text, reference_answer, qa_type="OE", i=0):
    choices = CHOICES if qa_type == "MC" else ()
    record = dataclasses.replace(
        example("train", i), answer=reference_answer, qa_type=qa_type, choices=choices
    )
    return Completion(record, text)


def reward(name, text, reference_answer="x", qa_type="OE"):
    completions = [completion(text, reference_answer, qa_type)]
    return float(compute_rewards(completions, {name: 1.0}, EMPTY_CONTEXT).total[0])


# Reward name to rows of: completion, reference answer, kind of question, value.
TABLES = {
    "accuracy": [
        ("<answer>B</answer>", "B", "MC", 1),
        ("B. red", "B", "MC", 1),
        ("<answer>The answer is B</answer>", "B", "MC", 1),
        ("<answer>a red one, not B</answer>", "B", "MC", 0),  # letters in prose do not count
        ("<answer>I took a look</answer>", "A", "MC", 0),
        ("<answer>\nred\n</answer>", "B", "MC", 1),
        ("<answer>E</answer>", "B", "MC", 0),  # no such option
        ("<answer>twenty-one</answer>", "21", "OE", 1),
        ("<answer>21</answer>", "<answer> Twenty one. </answer>", "OE", 1),
        ("<answer>\ntwo\n</answer>", "2", "OE", 1),
        ("<answer>one</answer><answer>two</answer>", "two", "OE", 1),
        ("two", "2", "OE", 1),
        ("<answer>juice</answer>", "orange juice", "OE", 0),
        ("<answer>The answer is two.</answer>", "2", "OE", 1),
        ("<answer>two</answer>", "The final answer: **two**", "OE", 1),
        ("<answer>The answer is</answer>", "2", "OE", 0),
        ("<answer>It is</answer>", "it", "OE", 0),
        ("<answer>2.0</answer>", "2", "OE", 1),
        ("<answer>2.50</answer>", "2.5", "OE", 1),
        ("<answer>20</answer>", "2", "OE", 0),
        ("<answer>2.05</answer>", "2.5", "OE", 0),
        ("<answer>-2.0</answer>", "2", "OE", 0),
    ],
    "accuracy_soft": [
        ("<answer>orange juice</answer>", "juice", "OE", 0.5),
        ("<answer>juice!</answer>", "orange juice", "OE", 0.5),
        ("<answer>The answer is B</answer>", "B", "OE", 1),
        ("<answer>B is the answer</answer>", "B", "OE", 0.25),
        ("<answer>donuts.</answer>", "donut", "OE", 10 / 12),
        ("<answer>Donut.</answer>", "<answer>donut</answer>", "OE", 1),
        ("<answer>two</answer>", "2", "OE", 1),
        ("<answer>two\ncats</answer>", "two dogs", "OE", 1 / 3),
        ("<answer></answer>", "donut", "OE", 0),
        ("<answer>A</answer>", "B", "OE", 0),
        ("<answer>The answer is B</answer>", "B", "MC", 1),
        ("<answer>A or B</answer>", "B", "MC", 0),  # no partial credit for naming several options
        ("orange juice", "juice", "OE", 0.5),
    ],
    "format": [
        ("<think>x</think><answer>y</answer>", "x", "OE", 1),
        (" \n<think>x</think>\n<answer>y\nz</answer>\n", "x", "OE", 1),
        ("<think>x</think>.<answer>y</answer>", "x", "OE", 0),
        ("<think></think><think>x</think><answer></answer>", "x", "OE", 0),
    ],
    "format_tags": [
        ("<think>x</think><answer>y</answer>", "x", "OE", 1),
        ("  <think>x\n</think>\n\n<answer>\ny</answer> ", "x", "OE", 1),
        ("<think>x</think><answer>y", "x", "OE", 0.75),
        ("<think>x</think> y", "x", "OE", 0.5),
        ("<think></think><think>x</think><answer></answer>", "x", "OE", 0.5),
        ("<answer><answer></answer>", "x", "OE", 0.25),
        ("<Think>x", "x", "OE", 0),
        ("", "x", "OE", 0),
    ],
    "classes": [
        ("<answer>cat, dog</answer>", "dog, cat", "OE", 1),
        ("<answer>A cat and two Dogs.</answer>", "cats; dog", "OE", 1),
        ("<answer>['cat', \"dog\"]</answer>", "cat\ndog", "OE", 1),
        ("<answer>1. cat\n2. dog</answer>", "cat, dog", "OE", 1),
        ("<answer>cat</answer>", "cat, dog", "OE", 2 / 3),
        ("<answer>cat, dog, horse, tie</answer>", "cat, dog", "OE", 2 / 3),
        ("<answer>cat, cats, cat</answer>", "cat", "OE", 1),
        # ULM-R1's code gives 0.9 if either text contains the other.
        ("<answer>catalogue</answer>", "cat", "OE", 0),
        ("<answer></answer>", "cat", "OE", 0),
        ("<answer>UNK</answer>", "cat", "OE", 0),
        ("<answer>bears</answer>", "polar bear", "OE", 0),
        ("zebra", "<answer>zebra</answer>", "OE", 1),
    ],
    "boxes": [
        (f"<answer>{BOX}</answer>", BOX, "OE", 1),
        (f"<answer>{POSITIONS}</answer>", f"<answer>{POSITIONS}</answer>", "OE", 1),
        (f"<answer>{LABELLED}</answer>", POSITIONS, "OE", 1),
        (PAIR, LABELLED, "OE", 1),
        ("dogs: [20, 20, 40, 40]; a cat: [0, 0, 10, 10]", LABELLED, "OE", 1),
        # correct positions, wrong labels
        ('{"cat": [20, 20, 40, 40], "dog": [0, 0, 10, 10]}', LABELLED, "OE", 0),
        ('{"dog": [20, 20, 40, 40], "cat": [0, 0, 10, 10]}', LABELLED, "OE", 1),
        ("(0, 0), (10, 10) and (20.0,20,40,40)", PAIR, "OE", 1),
        ("1. [0, 0, 10, 10]\n2. [20, 20, 40, 40]", LABELLED, "OE", 1),
        ("[0, 0, 10, 10]", PAIR, "OE", 0.5),  # a box is missed
        (f"{BOX}, [100, 100, 110, 110]", BOX, "OE", 0.5),  # a box is invented
        (f"{BOX} {BOX}", BOX, "OE", 0.5),  # a box is repeated
        ("[20, 10, 40, 50]", BOX, "OE", 1 / 3),  # 10 of 30 columns overlap
        ("[0, 0, 10, 20], [20, 20, 40, 30]", PAIR, "OE", 0.5),
        # the best match counts
        ("[0, 0, 10, 9], [0, 0, 10, 10]", "[[0, 0, 10, 10], [50, 50, 60, 60]]", "OE", 0.5),
        ("[]", "[]", "OE", 1),
        ("<answer>none</answer>", "[]", "OE", 1),
        ("[]", BOX, "OE", 0),
        (BOX, "none", "OE", 0),
        ("I see no boxes here", "[]", "OE", 0),
        ("UNK", BOX, "OE", 0),
        (f"{BOX}, [1, 2, 3]", BOX, "OE", 0),  # a malformed box makes the answer malformed
        (f"{BOX}, [1, 2, x, 4]", BOX, "OE", 0),
        (f"{BOX}, [30, 10, 10, 50]", BOX, "OE", 0),
        (f"{BOX}, [nan, 0, 1, 1]", BOX, "OE", 0),
        ("[1e999, 0, 1, 1]", BOX, "OE", 0),
        (f"{BOX}, {{'Position': [1,", BOX, "OE", 0),
    ],
    "numeric": [
        ("<answer>4</answer>", "four", "OE", 1),
        ("<think>3 and 5</think><answer> There are four zebras. </answer>", "4", "OE", 1),
        ("<answer>4.0</answer>", "4", "OE", 1),
        ("<answer>\n1,250\n</answer>", "1250", "OE", 1),
        ("<answer>one hundred and five</answer>", "105", "OE", 1),
        ("<answer>twenty-one</answer>", "21 apples", "OE", 1),
        ("<answer>2 + 1 = 3</answer>", "3", "OE", 1),
        ("<answer>-3 °C</answer>", "−3", "OE", 1),
        ("<answer>3.5 cm^2</answer>", "3.5", "OE", 1),
        ("<answer>3 (three)</answer>", "3", "OE", 1),
        ("<answer>2, 3, 4, 5</answer>", "3", "OE", 0),  # a list of guesses does not count
        ("<answer>3-5</answer>", "3", "OE", 0),
        ("<answer>1e3</answer>", "1", "OE", 0),
        ("<answer>3^2</answer>", "3", "OE", 0),
        ("<answer>someone</answer>", "1", "OE", 0),
        ("<answer>3.14</answer>", "3.1416", "OE", 0),
        ("<answer></answer>", "0", "OE", 0),
        ("four", "4", "OE", 1),
        ("<think>a dog, a cat</think> 2", "2", "OE", 1),
        ("<think>1, 2, 3, 4</think> 4", "4", "OE", 0),  # no tags: the whole text is the answer
    ],
    "symbolic": [
        ("<answer>145</answer>", "<answer> 145° </answer>", "OE", 1),
        ("<answer>$145^\\circ$</answer>", "145°", "OE", 1),
        ("<answer>The angle is 145 degrees.</answer>", "145°", "OE", 1),
        ("<answer>2√3</answer>", "2\\sqrt{3}", "OE", 1),
        ("<answer>2sqrt(3) cm</answer>", "$2\\sqrt{3}$", "OE", 1),
        ("<answer>AB = \\boxed{2\\sqrt{3}}</answer>", "2\\sqrt{3}", "OE", 1),
        # Without dollar signs math-verify would read both as 2.
        ("<answer>2\\sqrt{5}</answer>", "2\\sqrt{3}", "OE", 0),
        ("<answer>2</answer>", "2\\sqrt{3}", "OE", 0),
        ("<answer>0.5</answer>", "\\frac{1}{2}", "OE", 1),
        ("<answer>12π cm²</answer>", "12\\pi", "OE", 1),
        ("<answer>x^2+2x+1</answer>", "(x+1)^2", "OE", 1),
        ("<answer>x = 4, 5</answer>", "5", "OE", 0),
        ("<answer>$4$ or $5$ or $6$</answer>", "5", "OE", 0),
        ("<answer>maybe 4 or 5</answer>", "5", "OE", 0),
        ("<answer>unknown</answer>", "5", "OE", 0),
        ("<answer></answer>", "5", "OE", 0),
        ("5", "5", "OE", 1),
        ("<think>the sum</think> 5", "5", "OE", 1),
    ],
}
CASES = [(name, *case) for name, cases in TABLES.items() for case in cases]


@pytest.mark.parametrize(("name", "text", "reference_answer", "qa_type", "expected"), CASES)
def test_values(name, text, reference_answer, qa_type, expected):
    assert reward(name, text, reference_answer, qa_type) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("name", TABLES)
def test_permuted_rows_permute_rewards(name, rng):
    completions = [
        completion(text, reference_answer, qa_type, i)
        for i, (text, reference_answer, qa_type, _) in enumerate(TABLES[name])
    ]
    order = rng.permutation(len(completions))
    values = compute_rewards(completions, {name: 1.0}, EMPTY_CONTEXT).total
    permuted = compute_rewards([completions[i] for i in order], {name: 1.0}, EMPTY_CONTEXT).total
    np.testing.assert_array_equal(permuted, values[order])
    assert len(set(values)) > 1


@pytest.mark.parametrize(
    ("name", "reference_answer", "message"),
    [
        ("classes", "<answer> , </answer>", "must name at least one object class"),
        ("boxes", "[1, 2, 3]", "must be a list of boxes"),
        ("boxes", "a cat", "must be a list of boxes"),
        ("numeric", "many", "must name exactly one number"),
        ("numeric", "2 or 3", "must name exactly one number"),
        ("symbolic", "it depends on the drawing", "must be a formula"),
    ],
)
def test_a_malformed_reference_answer_is_an_error_that_names_the_row(
    name, reference_answer, message
):
    valid = {"classes": "cat", "boxes": BOX, "numeric": "2", "symbolic": "2"}[name]
    completions = [completion("2", valid), completion("2", reference_answer, i=1)]
    with pytest.raises(
        UserError, match=rf"{name!r} failed on row 1 \(record 'shapes-train-000001'\): .*{message}"
    ) as error:
        compute_rewards(completions, {name: 1.0}, EMPTY_CONTEXT)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", TABLES)
def test_images_are_refused(name):
    record = example("train", 0)
    with pytest.raises(UserError, match=f"{name!r} failed on row 0 .*needs a text, but"):
        compute_rewards([Completion(record, pixels=record.image)], {name: 1.0}, EMPTY_CONTEXT)


def test_without_math_verify_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="failed on row 0 .*pip install math-verify"):
        reward("symbolic", "5", "5")


def test_a_formula_that_takes_too_long_is_dropped_and_the_next_is_read():
    checker = FormulaChecker(timeout_seconds=0.5)
    start = time.monotonic()
    assert checker.verdict("$5$", "$9^{9^{9^{9}}}$") == "no verdict"
    assert checker.verdict("$5$", "$4+1$") == "right"
    assert time.monotonic() - start < 60


@pytest.mark.parametrize(
    ("words", "digits"),
    [
        ("twenty one", "21"),
        ("ninety-nine cats", "99 cats"),
        ("one two", "1 2"),
        ("two and three", "2 and 3"),
        ("a hundred", "100"),
        ("two hundred and three and four", "203 and 4"),
        ("three million two hundred thousand and twelve", "3200012"),
        ("hundred and red", "100 and red"),
        ("seventeen", "17"),
    ],
)
def test_number_words(words, digits):
    assert normalize_answer(words) == digits


PLURALS = {
    "donut": "donuts",
    "bus": "buses",
    "horse": "horses",
    "vase": "vases",
    "tie": "ties",
    "cookie": "cookies",
    "berry": "berries",
    "knife": "knives",
    "glove": "gloves",
    "person": "people",
    "bench": "benches",
    "box": "boxes",
    "glass": "glasses",
    "ski": "skis",
    "tomato": "tomatoes",
    "shoe": "shoes",
    "toe": "toes",
    "boss": "bosses",
    "scissors": "scissors",
}


@pytest.mark.parametrize("singular", PLURALS)
def test_plurals(singular):
    assert reward("classes", f"hot {PLURALS[singular]}", f"hot {singular}") == 1


def test_different_classes_stay_different():
    names = [*PLURALS, "cat", "car", "cart", "bear", "boat", "cow", "cup"]
    assert len({normalize_class(name) for name in names}) == 26


def test_boxes_are_read_with_their_labels():
    cat, dog = Box((0, 0, 10, 10), "cat"), Box((20, 20, 40, 40), "dog")
    assert read_boxes(LABELLED) == [cat, dog]
    assert read_boxes("<ref>cat</ref><box>(0,0),(10,10)</box>") == [cat]
    assert read_boxes("```json\n" + LABELLED + "\n```") == [cat, dog]
    assert read_boxes(POSITIONS) == [Box(cat.corners), Box(dog.corners)]
    assert read_boxes("[0, 0, 1, 1]" * MAX_BOXES)
    assert read_boxes("[0, 0, 1, 1]" * (MAX_BOXES + 1)) is None


def test_soft_jaccard_by_hand():
    assert (
        soft_jaccard("The answer is B", "B") == 0.25
        and soft_jaccard("orange juice", "juice") == 0.5
    )
    assert soft_jaccard("donuts", "donut") == pytest.approx(0.833, abs=5e-4)
    assert soft_jaccard("A", "B") == 0 and soft_jaccard("", "") == 0 and soft_jaccard("", "B") == 0
    assert soft_jaccard("Red red CAR", "red car") == 1
    # "donuts" is paired with "donut" at 10/11, and nothing remains for "donutz".
    assert soft_jaccard("donuts donutz", "donut") == pytest.approx((10 / 11) / (3 - 10 / 11))


N = 100_000
# Texts that would make a careless pattern or a nested loop slow.
LONG_TEXTS = {
    "letters": "x" * N,
    "open answers": "<answer>" * (N // 8),
    "open thoughts": "<think>" * (N // 7),
    "thoughts": "<think></think>" * (N // 15) + "<answer>x</answer>",
    "ends": "</answer>" * (N // 9),
    "brackets": "[" * N,
    "nested": "[" * (N // 2) + "]" * (N // 2),
    "braces": "{" * (N // 2) + "[1, 2, 3, 4]" + "}" * (N // 2),
    "empty lists": "[]" * (N // 2),
    "boxes": "[1, 2, 3, 4]," * (N // 13),
    "corners": "(1,2)" * (N // 5),
    "open corners": "(1, " * (N // 4),
    "spaces in a bracket": "[1," + " " * N + "x]",
    "label": "[" + "a b " * (N // 4) + "[1,2,3,4]]",
    "digits": "1" * N,
    "thousands": "1,000" + ",000" * (N // 4) + ",0000",
    "numbers": "1 " * (N // 2),
    "number words": "hundred and " * (N // 12),
    "hyphens": "a-" * (N // 2) + "1",
    "signs": "-+" * (N // 2),
    "dots": "1." * (N // 2),
    "powers": "9^" * (N // 2),
    "similar words": " ".join(
        f"donut{chr(97 + i % 26)}{chr(97 + i // 26 % 26)}" for i in range(N // 8)
    ),
    "classes": ", ".join(f"c{i}" for i in range(N // 8)),
    "ands": "and " * (N // 4),
    "dollars": "$" * N,
}
LONG_TEXT_REFERENCE_ANSWERS = {
    "accuracy_soft": "a donut and two donuts with three donutes",
    "boxes": LABELLED,
    "numeric": "3",
    "symbolic": "$2\\sqrt{3}$",
}


@pytest.mark.parametrize("text", LONG_TEXTS)
def test_long_texts_take_bounded_time(text):
    reward("symbolic", "1", "$2\\sqrt{3}$")  # starts the worker before the clock runs
    seconds = {}
    for name in TABLES:
        # Only formulas are compared in another process.
        clock = time.perf_counter if name == "symbolic" else time.process_time
        start = clock()
        reward(name, LONG_TEXTS[text], LONG_TEXT_REFERENCE_ANSWERS.get(name, "cat"))
        seconds[name] = clock() - start
    assert max(seconds.values()) < 4, seconds


def test_two_long_texts_are_compared_in_bounded_time():
    start = time.perf_counter()
    words = LONG_TEXTS["similar words"]
    assert 0 <= soft_jaccard(words, words.replace("d", "e")) <= 1
    assert 0 <= soft_jaccard("ab" * (N // 2), "ba" * (N // 2)) <= 1
    assert time.perf_counter() - start < 6


def test_a_long_answer_is_not_sent_to_math_verify():
    assert reward("symbolic", "<answer>" + "0" * MAX_ANSWER_LENGTH + "5</answer>", "5") == 0
    assert reward("symbolic", "<answer>" + "0" * 20 + "5</answer>", "5") == 1
