"""Records that training cannot use: all of them are named, or others take their place."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from corl_jax.core.errors import UserError
from corl_jax.core.problems import SeveralProblems
from corl_jax.data.findings import EXAMPLES, NUMBERED
from corl_jax.data.records import TextTooLong
from corl_jax.data.selection import select_rows
from corl_jax.data.shapes.vocabulary import build_tokenizer
from corl_jax.data.sources.addresses import open_source
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.data.unusable_records import usable_rows
from corl_jax.tasks.base import errors_name

ROW = {
    "prompt": "a cat",
    "real_image": "0.png",
    "qa_problem": "how many?",
    "qa_solution": "two",
    "qa_type": "OE",
    "kind": "count",
}


@pytest.fixture
def open_folder(tmp_path):
    """A function from changes of ``ROW`` to a source; a text is a line as it is."""
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "0.png")
    (tmp_path / "damaged.png").write_bytes((tmp_path / "0.png").read_bytes()[:40])

    def write(*changes):
        lines = [
            change if isinstance(change, str) else json.dumps(ROW | change) for change in changes
        ]
        (tmp_path / "train.jsonl").write_text("\n".join(lines))
        return open_source(str(tmp_path), "train")

    return write


def check_width(record):
    if len(record.prompt) > 10:
        raise TextTooLong(f"record {record.id!r}: its prompt is long", "rl.w", len(record.prompt))


def message_of(source, rows, checks=(check_width,), **options):
    with pytest.raises(UserError) as error:
        usable_rows(source, rows, checks, **options)
    return str(error.value)


def test_everything_that_is_wrong_is_named_at_once(open_folder):
    source = open_folder(
        {},
        {"real_image": "damaged.png", "prompt": "a cat on a mat"},
        "no json",
        {"qa_solution": ""},
        {"real_image": "nowhere.png"},
        {"prompt": "a cat on a chair"},
    )
    with pytest.raises(SeveralProblems) as error:
        usable_rows(source, range(6), [check_width])
    rows, widths, image = error.value.problems

    # The rows that are no records; prompts, for both of which one flag is enough; a picture.
    assert rows.startswith("3 of 6 training records cannot be used: ")
    for part in ("line 3 of", "record 'train-4' (line 4 of", "nowhere.png"):
        assert part in rows
    assert widths.startswith("2 of 6 training records cannot be used: record 'train-2': its prompt")
    assert "record 'train-6': its" in widths
    drop = "or set --config.data.on_bad=drop to take other records in their place"
    assert widths.endswith(f"Correct the data, set --config.rl.w=16, {drop}")
    assert image.startswith("1 of 6") and "record 'train-2' (line 2 of " in image
    assert "damaged.png" in image and image.endswith(f"Correct the data, {drop}")
    assert str(error.value).splitlines() == [
        "3 problems, and nothing was written:",
        *(f"  {n}. {text}" for n, text in enumerate((rows, widths, image), 1)),
    ]


def test_levels_of_the_check(open_folder):
    source = open_folder({}, {"real_image": "damaged.png"}, {"prompt": "a cat on a mat"}, "{")
    for level, rows in (("all", [1, 2, 3]), ("texts", [2, 3]), ("none", [3])):
        assert message_of(source, range(4), level=level).count("1 of 4 training") == len(rows)
        usable = usable_rows(source, range(4), [check_width], level=level, on_bad="drop")
        assert not set(usable) & set(rows) and len(usable) == 4
    assert usable_rows(source, [0], [check_width]) == [0]


def test_others_take_the_places_of_records_that_cannot_be_used(open_folder, capsys):
    long = {"prompt": "a cat on a mat"}
    source = open_folder({}, long, {}, long, long, {}, long)
    usable = usable_rows(source, range(7), [check_width], on_bad="drop", label="my")
    # Each by the next one; after the last comes the first. All others keep their places.
    assert list(usable) == [0, 2, 2, 5, 5, 5, 0]
    assert capsys.readouterr().err.startswith("4 of 7 my records cannot be used: record 'train-2'")
    assert list(usable_rows(source, [3, 2], [check_width], on_bad="drop")) == [2, 2]
    assert "1 of 1" in message_of(source, [1], on_bad="drop")


def test_many_are_counted_and_some_are_listed(open_folder):
    source = open_folder(*[{"prompt": "a cat on a mat" + "!" * i} for i in range(600)])
    message = message_of(source, range(600))
    more = 600 - EXAMPLES - NUMBERED
    assert message.startswith("600 of 600") and "; also number 4, 5, 6, " in message
    assert f" and {more} more. " in message and "\n" not in message
    assert message.count("record 'train-") == EXAMPLES and "--config.rl.w=613" in message
    # None would be left.
    assert "on_bad" not in message


def test_unknown_words_are_listed_once(open_folder):
    tokenizer = TextTokenizer(build_tokenizer())
    source = open_folder(
        *[{"prompt": f"a {word} cat"} for word in ("teal", "red", "ivory", "teal")]
    )

    def check(record):
        with errors_name(record):
            tokenizer.image_generation_prompt(record.prompt)

    message = message_of(source, range(4), [check])
    assert message.startswith("4 of 4 training records cannot be used: ")
    assert "does not know 'cat', 'ivory', 'teal' (in number 1, 2, 3, 4)" in message
    assert "corl init --out FOLDER" in message


def test_a_selection_keeps_rows_that_may_belong_to_it(open_folder):
    source = open_folder({}, "{", {"kind": "colour"})
    assert list(select_rows(source, ("count",))) == [0, 1]


def test_a_picture_that_is_damaged_later_names_its_record(open_folder, tmp_path):
    source = open_folder({}, {"id": "mine"})
    (tmp_path / "0.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"record 'mine' \(line 2 of .*train.jsonl'\): .*0.png"):
        source[1]


def test_checks_of_errors_that_are_no_user_errors(open_folder):
    def refuse(record):
        raise ValueError(f"no number in {record.answer!r}")

    source = open_folder({})
    assert "no number in 'two'" in message_of(source, [0], [refuse])
