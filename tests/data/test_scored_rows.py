"""Rows whose outputs are scored: a file with the columns of records, and two more."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hostile_json import SETTINGS, VALUES, raises_at_most_a_user_error, variants
from hypothesis import given
from PIL import Image

from corl_jax.core.errors import UserError
from corl_jax.core.problems import SeveralProblems
from corl_jax.data.answers.reading import is_correct
from corl_jax.data.scored_rows import read_scored_rows

QUESTION = (
    "What is it?\nOptions:\nA. a cat\nB. a dog\n\nAnswer with a letter inside <answer> </answer>."
)
ROW = {
    "prompt": "a cat",
    "real_image": "cat.png",
    "qa_problem": QUESTION,
    "qa_solution": "<answer>B</answer>",
    "qa_type": "MC",
}


@pytest.fixture
def write_rows(tmp_path):
    Image.fromarray(np.full((4, 6, 3), 7, np.uint8)).save(tmp_path / "cat.png")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "black.png")

    def write(*rows):
        path = tmp_path / "records.jsonl"
        path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
        return path

    return write


def test_rows_become_records(write_rows):
    optional_columns = {
        "id": "x",
        "picture": "black.png",
        "completion": "B",
        "cls_problem": "which?",
        "cls_solution": "<answer>cat</answer>",
    }
    minimal, full = read_scored_rows(write_rows(ROW, "", ROW | optional_columns))

    record = minimal.record
    assert record.id == "records-1" and record.qa_type == "MC"
    assert record.answer == "B" and record.choices == ("a cat", "a dog")
    assert record.image.shape == (4, 6, 3)
    assert minimal.image is record.image and minimal.completion is None

    assert full.record.id == "x" and not full.image.any() and full.completion == "B"
    assert (full.record.class_question, full.record.class_answer) == ("which?", "cat")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line 1 of .* is not JSON"),
        ("[]", "line 1 of .* must be a JSON object; got a list"),
        ({"color": "a"}, "must have a column of prompts or of questions; it has color"),
        (ROW | {"real_image": "dog.png"}, "dog.png', which does not exist"),
        (
            ROW | {"qa_solution": "C"},
            "record 'records-1' .line 1 of .*: answer must be .*; got 'C'",
        ),
        ("", "has no records"),
    ],
)
def test_unusable_rows(write_rows, row, message):
    with pytest.raises(UserError, match=message):
        read_scored_rows(write_rows(row))


@pytest.mark.parametrize(
    ("changes", "answer", "solution"),
    [
        ({"qa_type": "mc"}, "B", "<answer>B</answer>"),
        ({"qa_type": "Multiple-Choice"}, "B", "<answer>B</answer>"),
        ({"qa_type": "ＭＣＱ"}, "B", "<answer>B</answer>"),
        # The reference answer is read as a completion is: the last one, by letter or text.
        (
            {"qa_solution": "<think>so <answer>A</answer></think><answer>B</answer>"},
            "B",
            "<think>so <answer>A</answer></think><answer>B</answer>",
        ),
        ({"qa_solution": "**B.** a dog"}, "B", "<answer>**B.** a dog</answer>"),
        ({"qa_solution": "<answer>a dog</answer>"}, "B", "<answer>a dog</answer>"),
        ({"qa_type": "oe", "qa_solution": " two "}, "two", "<answer>two</answer>"),
        # What is imitated stays as it is written.
        ({"qa_type": "open-ended", "qa_solution": "５²"}, "5^2", "<answer>５²</answer>"),
    ],
)
def test_types_and_answers_are_read_as_people_write_them(write_rows, changes, answer, solution):
    (row,) = read_scored_rows(write_rows(ROW | changes))
    assert (row.record.answer, row.record.solution) == (answer, solution)
    assert is_correct(solution, answer, row.record.qa_type, row.record.choices)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qa_type": "quiz"}, "qa_type must be one of MC, OE; got 'quiz'"),
        ({"qa_solution": "A or B"}, "answer must be the letter of a choice, A, B; got 'A or B'"),
        (
            {"qa_problem": "What?"},
            "a multiple choice question must have two or more choices; got 0",
        ),
        (
            {"qa_type": "OE", "qa_solution": "<answer> </answer>"},
            "answer must be a text of characters, not empty",
        ),
        (
            {"qa_type": "OE", "qa_solution": "a <answer> b"},
            "solution must answer .*; got 'b' where",
        ),
    ],
)
def test_a_row_without_a_right_answer_is_named(write_rows, changes, message):
    location = r"record 'records-2' \(line 2 of '.*records.jsonl'\): "
    with pytest.raises(UserError, match=location + message):
        read_scored_rows(write_rows(ROW, ROW | changes))


@pytest.mark.parametrize("name", ["sol_two", "qa_type_mc", "opt_paren", "opt_colon"])
def test_rows_that_were_read_wrongly(test_data, name):
    (row,) = read_scored_rows(test_data("data/cases") / "records" / f"{name}.jsonl")
    record = row.record
    assert (record.answer, record.qa_type, record.choices) == ("B", "MC", ("a cat", "a dog"))
    assert is_correct(record.solution, record.answer, record.qa_type, record.choices)


def test_photographs(test_data):
    rows = read_scored_rows(test_data("data/photos") / "records.jsonl")
    assert len(rows) == 12 and {row.record.qa_type for row in rows} == {"MC", "OE"}
    assert all(len(row.record.choices) == 4 for row in rows if row.record.qa_type == "MC")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            ROW | {"real_image": {"bytes": None, "path": None}},
            "real_image must be a picture; got an ",
        ),
        (
            ROW | {"picture": {"file": "iVBORw0KGgo="}},
            "picture must be a picture; got an object with",
        ),
        (ROW | {"picture": 3}, "line 1 of .*: picture must be a picture, as its path"),
        (
            ROW | {"picture": "nowhere.png"},
            "line 1 of .* names the image .*nowhere.png', which does",
        ),
        (ROW | {"completion": ["B"]}, r"completion must be a text; got \['B'\]"),
        (ROW | {"id": {"a": 1}}, "id must be a text, or a list of one; got"),
        (ROW | {"real_image": "a" * 300}, "real_image must have names of at most 255 bytes"),
        (ROW | {"picture": "a\0b"}, "picture must be a path that can be opened"),
        (ROW | {"prompt": "\ud800"}, "prompt in line 1 of .* half of a surrogate pair"),
        (json.dumps(ROW)[:-1] + ', "kind": NaN}', "kind in line 1 of .* must be a finite number"),
        (json.dumps(ROW)[:-1] + ', "qa_type": "OE"}', "line 1 of .* the key 'qa_type' twice"),
        ("[" * 5000 + "]" * 5000, "line 1 of .* at most 64 objects and lists inside each other"),
    ],
)
def test_columns_of_another_kind(write_rows, row, message):
    with pytest.raises(UserError, match=message) as error:
        read_scored_rows(write_rows(row))
    assert "\n" not in str(error.value)


def test_all_rows_that_are_unusable_are_named(write_rows):
    bad = [ROW | {"real_image": "dog.png"}, ROW | {"qa_solution": "C"}]
    with pytest.raises(SeveralProblems) as error:
        read_scored_rows(write_rows(ROW, *bad))
    first, second = error.value.problems
    assert "line 2 of" in first and "dog.png" in first
    assert "line 3 of" in second and "got 'C'" in second
    with pytest.raises(SeveralProblems, match="11. and 2 more rows of '.*records.jsonl'"):
        read_scored_rows(write_rows(*bad * 6))


def test_rows_of_the_columns_that_training_reads(write_rows):
    """No column is needed but a prompt or a question; several outputs may be of one record."""
    row = {"caption": "a cat", "id": "x", "picture": "black.png"}
    first, second = read_scored_rows(write_rows(row, row | {"picture": "cat.png"}))
    assert first.record.id == second.record.id == "x" and first.record.prompt == "a cat"
    assert first.record.image is None and not first.image.any() and second.image.any()
    (text,) = read_scored_rows(write_rows({"question": "How many?", "answer": 2}))
    assert text.image is None and text.record.answer == "2"


def test_a_picture_may_be_a_struct(write_rows):
    black = {"bytes": None, "path": "black.png"}
    first, second = read_scored_rows(
        write_rows(ROW | {"picture": black}, ROW | {"real_image": black})
    )
    assert not first.image.any() and first.record.image.any()
    assert not second.image.any() and second.image is second.record.image


def test_the_cases_that_were_answered_wrongly(test_data):
    cases = test_data("data/cases") / "records"
    with pytest.raises(
        UserError, match="line 1 of .*latin1.jsonl' must be text in UTF-8; got byte"
    ):
        read_scored_rows(cases / "latin1.jsonl")
    (row,) = read_scored_rows(cases / "picture_struct.jsonl")
    np.testing.assert_array_equal(row.image, row.record.image)


@SETTINGS
@given(VALUES | variants(ROW | {"picture": {"bytes": None, "path": "cat.png"}, "id": 3}))
def test_no_row_ends_in_a_traceback(tmp_path_factory, row):
    folder = tmp_path_factory.getbasetemp()
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(folder / "cat.png")
    (folder / "records.jsonl").write_text(json.dumps(row))
    raises_at_most_a_user_error(read_scored_rows, folder / "records.jsonl")
