"""Records in a folder: texts are checked at once, images are read when records are indexed."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from corl_jax.core.errors import UserError
from corl_jax.data.selection import records_at, select_rows
from corl_jax.data.sources.addresses import open_source

ROW = {
    "prompt": "a cat",
    "real_image": "images/0.png",
    "qa_problem": "What is it?\nOptions:\nA. a cat\nB. a dog",
    "qa_solution": "<think>fur\nears</think><answer>A</answer>",
    "qa_type": "MC",
    "cls_problem": None,
}
OPEN_ENDED_ROW = ROW | {
    "qa_problem": "how many?",
    "qa_solution": "two",
    "qa_type": "OE",
    "kind": "count",
}


def select(source, questions=(), qa_type="", limit=0):
    """The selected records of ``source``."""
    return records_at(source, select_rows(source, questions, qa_type, limit))


@pytest.fixture
def write_folder(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(3):
        Image.fromarray(np.full((4, 6, 3), i, np.uint8)).save(tmp_path / f"images/{i}.png")

    def write(*rows, split="train"):
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines), "utf-8")
        return tmp_path

    return write


def test_a_fingerprint_changes_with_texts_and_with_images(write_folder):
    folder = write_folder(ROW, OPEN_ENDED_ROW)
    fingerprints = [open_source(str(folder), "train").fingerprint()]
    assert open_source(str(folder), "train").fingerprint() == fingerprints[0]
    write_folder(ROW, OPEN_ENDED_ROW | {"qa_solution": "three"})
    fingerprints.append(open_source(str(folder), "train").fingerprint())
    write_folder(ROW)
    fingerprints.append(open_source(str(folder), "train").fingerprint())
    Image.fromarray(np.arange(90, dtype=np.uint8).reshape(5, 6, 3)).save(folder / "images/0.png")
    fingerprints.append(open_source(str(folder), "train").fingerprint())

    # Another picture in a file of the same size.
    content = bytearray((folder / "images/0.png").read_bytes())
    content[-20] ^= 1
    (folder / "images/0.png").write_bytes(bytes(content))
    fingerprints.append(open_source(str(folder), "train").fingerprint())
    assert len(set(fingerprints)) == 5


def test_rows_become_records_in_order(write_folder):
    # U+2028 separates lines for Python, but not in JSON Lines.
    prompt = "two lines\u2028of a caption"
    folder = write_folder(ROW, OPEN_ENDED_ROW | {"real_image": "images/2.png", "prompt": prompt})
    source = open_source(str(folder), "train")
    first, second = source[0], source[1]

    assert len(source) == 2 and (first.id, second.id) == ("train-1", "train-2")
    assert (first.answer, first.choices) == ("A", ("a cat", "a dog"))
    assert first.solution == ROW["qa_solution"] and second.solution == "<answer>two</answer>"
    assert (first.image == 0).all() and (second.image == 2).all() and second.prompt == prompt

    assert [source.qa_type_and_kind(i) for i in range(2)] == [("MC", ""), ("OE", "count")]
    assert select(source, ("count",))[0].id == "train-2"
    assert select(source, qa_type="MC")[0].id == "train-1"
    with pytest.raises(IndexError):
        source[2]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [ROW, ROW | {"real_image": "images/9.png"}],
            "line 2 of .* names the image .*9.png', which does not exist",
        ),
        ([ROW | {"id": "x"}, ROW | {"id": "x"}], "line 2 of .* has the id 'x' of an earlier row"),
        (
            [ROW | {"qa_solution": "C"}],
            "record 'train-1' .line 1 of .*: answer must be .*; got 'C'",
        ),
        (
            [ROW, ROW | {"od_solution": [1, 2]}],
            "line 2 of .*: od_solution must be a text, or a list of one; got \\[1, 2\\]",
        ),
    ],
)
def test_unusable_rows(write_folder, rows, message):
    source = open_source(str(write_folder(*rows)), "train")
    (position, reason), *others = source.unreadable.items()
    assert position == len(rows) - 1 and not others and re.match(message, reason)
    with pytest.raises(UserError, match=message):
        source[position]


def test_a_folder_without_records_explains_what_to_put_there(write_folder, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, split, message in (
        (tmp_path / "none", "train", "config.data.source must be a folder or a file that exists, "),
        ("", "train", "config.data.source must be a folder or a file that exists, "),
        (tmp_path / "empty", "train", "has no train.jsonl and .*it has no files.; put the records"),
        (
            write_folder(ROW),
            "test",
            "has no test.jsonl and .*do without held-out records .--config",
        ),
    ):
        with pytest.raises(UserError, match=message):
            open_source(str(folder), split)
