"""Ten thousand rows of all the kinds that people have: each is named, or read as it is meant."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from bad_rows import (
    CHOICE,
    GOOD,
    LONGEST_PROMPT,
    LONGEST_QUESTION,
    READ,
    REJECTED,
    Kind,
    write_pictures,
)
from helpers import byte_tokenizer
from hostile_json import SETTINGS, VALUES, raises_at_most_a_user_error, variants
from hypothesis import given

from corl_jax.core.errors import UserError
from corl_jax.data import findings
from corl_jax.data.pipeline import batches
from corl_jax.data.sources.addresses import open_source
from corl_jax.data.sources.base import SelectedRecords
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.data.unusable_records import usable_rows
from corl_jax.rewards.config import RewardOptions
from corl_jax.rewards.record_checks import record_checks
from corl_jax.tasks.joint import JointPrompts
from corl_jax.tasks.text_to_image import TextToImage
from corl_jax.tasks.visual_qa import VisualQA

ROWS = 10_000
REJECTED_NAMES = [kind.name for kind in REJECTED]
DOCS = Path(__file__).resolve().parents[2] / "docs" / "data.md"


@pytest.fixture(scope="module")
def tasks():
    tokenizer = TextTokenizer(byte_tokenizer())
    image_task = TextToImage(tokenizer, LONGEST_PROMPT, "rl.rollout.image_prompt_length")
    return image_task, VisualQA(tokenizer, 4, 16, LONGEST_QUESTION, "rl.rollout.text_prompt_length")


@pytest.fixture(scope="module")
def checks(tasks):
    image_task, text_task = tasks
    rewards = record_checks(["accuracy", "format", "pixel"], RewardOptions(), text_task.prompt_ids)
    return [image_task.check_record, text_task.check_record, *rewards]


@pytest.fixture
def open_rows(tmp_path):
    """A function from kinds to a source with one row of each."""
    write_pictures(tmp_path)

    def write(kinds):
        lines = [kind.encode(f"r{i}") for i, kind in enumerate(kinds)]
        (tmp_path / "train.jsonl").write_bytes(b"\n".join(lines))
        return open_source(str(tmp_path), "train")

    return write


def test_ten_thousand_rows(open_rows, tasks, checks, monkeypatch, capsys):
    monkeypatch.setattr(findings, "EXAMPLES", ROWS)
    monkeypatch.setattr(findings, "EXAMPLES_OF_ROWS", ROWS)
    good = Kind("good", GOOD)
    kinds = [Kind("first of its id", GOOD | {"id": "twice"})]
    cycle = [kind for pair in zip(REJECTED, [good] * len(REJECTED), strict=True) for kind in pair]
    cycle += READ
    kinds += [cycle[i % len(cycle)] for i in range(ROWS - 1)]
    # Ids that stand for themselves occur once.
    seen: set[str] = set()
    for i, kind in enumerate(kinds):
        row_id = str(kind.line.get("id", "")) if isinstance(kind.line, dict) else ""
        if row_id and kind.reason == "" and row_id in seen:
            kinds[i] = good
        seen.add(row_id)
    assert len(REJECTED) >= 40 and set(REJECTED_NAMES) <= {kind.name for kind in kinds}

    source = open_rows(kinds)
    assert len(source) == ROWS
    rows = usable_rows(source, range(ROWS), checks, on_bad="drop")

    # Every bad row is named, no other one is, and all others stay in their places.
    message = capsys.readouterr().err
    named = {int(number) - 1 for number in re.findall(r"line (\d+) of ", message)}
    bad = {i for i, kind in enumerate(kinds) if kind.reason}
    counts = re.findall(rf"(\d+) of {ROWS} training records cannot be used", message)
    assert sum(map(int, counts)) >= len(bad)
    assert {kinds[i].name for i in named ^ bad} == set()
    assert {kind.name for i, kind in enumerate(kinds) if (rows[i] == i) == (i in bad)} == set()

    # The run goes on with the rest.
    transform = JointPrompts(*tasks, image_prompts=8, text_prompts=8)
    usable = SelectedRecords(source, tuple(rows))
    iterator = batches(usable, seed=0, batch_size=8, transform=transform)
    for _ in range(20):
        batch = next(iterator)
        assert np.isfinite(batch["text"].prompts.images).all()


@pytest.mark.parametrize("kind", REJECTED, ids=lambda kind: kind.name)
def test_a_row_that_is_rejected(open_rows, checks, kind):
    source = open_rows([Kind("first of its id", GOOD | {"id": "twice"}), kind])
    with pytest.raises(UserError) as error:
        usable_rows(source, range(2), checks)
    message = str(error.value)
    # What a row lacks may be a problem of a task and of a reward.
    counts = message.count("1 of 2 training records cannot be used")
    assert message.count("\n") == (counts if counts > 1 else 0)
    assert kind.reason in message and "line 2 of" in message


@pytest.mark.parametrize("kind", READ, ids=lambda kind: kind.name)
def test_a_row_that_is_read(open_rows, checks, kind):
    source = open_rows([kind])
    assert usable_rows(source, range(1), checks) == range(1)
    record = source[0]
    assert {name: vars(record)[name] for name in kind.expected} == kind.expected
    assert record.image.dtype == np.uint8 and record.image.shape[2] == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            json.dumps(GOOD).encode("utf-16"),
            "must be text in UTF-8; got text in UTF-16; save it as",
        ),
        (json.dumps(GOOD).encode("utf-16-le"), "got NUL bytes, as in UTF-16"),
        (b"\x1f\x8b\x08\x00" + bytes(20), "got a gzip archive; unpack it with gunzip"),
        (b"PK\x03\x04" + bytes(20), "got a zip archive"),
        (b"\x28\xb5\x2f\xfd" + bytes(20), "got a Zstandard archive"),
        (b"PAR1" + bytes(20), "got a Parquet file; name it"),
        (b"version https://git-lfs.github.com/spec/v1\n", "got a pointer of Git LFS"),
        (json.dumps(GOOD | {"prompt": "é"}, ensure_ascii=False).encode("latin-1"), "byte 0xe9"),
        (b'{"prompt": "a ', "line 1 of .* is not JSON"),
        (b"", "has no records"),
        (b" \n\n", "has no records"),
    ],
)
def test_a_file_that_is_no_json_lines(tmp_path, content, message):
    (tmp_path / "train.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        open_source(str(tmp_path), "train")
    assert "\n" not in str(error.value) and "train.jsonl" in str(error.value)


def test_a_mark_at_the_beginning_of_a_file_means_nothing(tmp_path):
    write_pictures(tmp_path)
    (tmp_path / "train.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\n\n")
    assert not open_source(str(tmp_path), "train").unreadable


def test_the_docs_have_every_kind():
    text = DOCS.read_text("utf-8")
    rows = [f"| {kind.name} | `{kind.reason}` |" for kind in REJECTED]
    # Spellings are listed in another form.
    names = [kind.name for kind in READ if not re.search(" (written|answered) '", kind.name)]
    assert [line for line in (*rows, *names) if line not in text] == []
    assert f"{len(REJECTED)} kinds of rows are rejected" in text


@SETTINGS
@given(VALUES | variants(CHOICE | {"choices": ["red", "blue"], "id": 3}))
def test_no_row_ends_in_a_traceback(tmp_path_factory, checks, row):
    folder = tmp_path_factory.getbasetemp() / "any_row"
    if not folder.exists():
        folder.mkdir()
        write_pictures(folder)
    (folder / "train.jsonl").write_text("\n".join([json.dumps(row), json.dumps(CHOICE)]))
    source = raises_at_most_a_user_error(open_source, str(folder), "train")
    if source is not None:
        raises_at_most_a_user_error(usable_rows, source, range(2), checks)
        raises_at_most_a_user_error(source.__getitem__, 0)
