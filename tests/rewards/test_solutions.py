"""Before a run: a record whose solution does not earn the full rewards is named."""

from __future__ import annotations

import dataclasses

import pytest

from corl_jax.core.errors import UserError
from corl_jax.data.shapes.examples import example
from corl_jax.data.shapes.questions import KINDS, NUMBERS
from corl_jax.data.shapes.scene import COLOURS, SHAPES
from corl_jax.rewards.config import RewardOptions
from corl_jax.rewards.solutions import solution_checks

OPTIONS = RewardOptions()
TEXT_REWARDS = ("accuracy", "accuracy_soft", "format")


def check(records, names):
    for check_record in solution_checks(names, OPTIONS):
        for record in records:
            check_record(record)


def record(i=0, **changes):
    fields = {"qa_type": "OE", "choices": (), "location": f"line {i + 1} of 'train.jsonl'"}
    return dataclasses.replace(example("train", i), **(fields | changes))


def test_records_of_the_embedded_world_pass_and_the_first_have_every_answer():
    records = [example("train", i) for i in range(512)]
    check(records, TEXT_REWARDS)
    answers = {(record.qa_type, record.kind, record.answer) for record in records}
    expected = {("OE", "count", word) for word in NUMBERS}
    expected |= {("OE", "colour", word) for word in COLOURS}
    expected |= {("OE", "shape", word) for word in SHAPES}
    expected |= {("OE", kind, word) for kind in ("existence", "relation") for word in ("yes", "no")}
    expected |= {("MC", kind, letter) for kind in KINDS[:3] for letter in "ABC"}
    assert answers == expected


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        (("numeric",), {"answer": "many"}, "must name exactly one number; got 'many'"),
        (("classes",), {"answer": " , "}, "must name at least one object class"),
        (("boxes",), {"answer": "a cat"}, "must be a list of boxes"),
        (("symbolic",), {"answer": "it depends on the drawing"}, "must be a formula"),
        (
            ("accuracy", "numeric"),
            {"answer": "3", "solution": "<answer>4</answer>"},
            "reward 'accuracy': the solution must earn 1; got 0 for '<answer>4</answer>' "
            "where the answer is '3'. Correct one of them, or drop the row",
        ),
        (("self_boxes",), {}, "reward 'self_boxes' needs box_answer, which is empty"),
        (("self_boxes",), {"box_answer": "[1, 2]"}, "must be a list of boxes"),
    ],
)
def test_a_record_that_no_answer_can_satisfy_is_named(names, changes, message):
    usable = {"answer": "2", "class_answer": "cat", "box_answer": "[1, 2, 3, 4]"}
    answer = {"numeric": "2", "boxes": "[1, 2, 3, 4]", "symbolic": "x > 2"}.get(names[0], "2")
    good = record(0, **(usable | {"answer": answer}))
    check([good], names)
    # Rows with the same answer are named one by one.
    for i in (1, 2):
        with pytest.raises(UserError) as error:
            check([good, record(i, **changes)], names)
        text = str(error.value)
        assert text.startswith(f"record 'shapes-train-00000{i}' (line {i + 1} of 'train.jsonl'): ")
        assert message in text and "\n" not in text


def test_the_solution_of_a_text_is_scored_and_the_reference_of_an_image():
    boxes = "[[0, 0, 10, 10], [20, 20, 40, 40]]"
    check([record(box_answer=boxes)], ("self_boxes", "cycle", "clip"))
    solution = "<think>so <answer>1</answer></think><answer>**2**</answer>"
    check([record(answer="2", solution=solution)], ("accuracy", "numeric"))
