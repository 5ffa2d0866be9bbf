"""Records in files with the columns of the paper's data set."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from corl_jax.core.errors import UserError
from corl_jax.data.record_files import read_records

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
def write(tmp_path):
    Image.fromarray(np.full((4, 6, 3), 7, np.uint8)).save(tmp_path / "cat.png")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "drawn.png")

    def make(*rows):
        path = tmp_path / "records.jsonl"
        path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
        return path

    return make


def test_rows_become_records(write):
    extra = {
        "id": "x",
        "picture": "drawn.png",
        "completion": "B",
        "cls_problem": "which?",
        "cls_solution": "<answer>cat</answer>",
    }
    plain, full = read_records(write(ROW, "", ROW | extra))
    record = plain.record
    assert (record.id, record.answer, record.choices, record.qa_type) == (
        "records-1",
        "B",
        ("a cat", "a dog"),
        "MC",
    )
    assert (
        record.image.shape == (4, 6, 3)
        and plain.picture is record.image
        and plain.completion is None
    )
    assert full.record.id == "x" and not full.picture.any() and full.completion == "B"
    assert (full.record.class_question, full.record.class_answer) == ("which?", "cat")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("{", "line 1 of .* is not JSON"),
        ("[]", "line 1 of .* holds a list"),
        ({"prompt": "a"}, "line 1 of .* has no text 'real_image'"),
        (ROW | {"real_image": "dog.png"}, "dog.png' does not exist"),
        (ROW | {"qa_solution": "C"}, "record 'records-1': answer is 'C'"),
        ("", "holds no record"),
    ],
)
def test_rows_that_cannot_be_used(write, row, says):
    with pytest.raises(UserError, match=says):
        read_records(write(row))


def test_the_photographs(test_data):
    rows = read_records(test_data("data/photos") / "records.jsonl")
    assert len(rows) == 12 and {row.record.qa_type for row in rows} == {"MC", "OE"}
    assert all(len(row.record.choices) == 4 for row in rows if row.record.qa_type == "MC")
