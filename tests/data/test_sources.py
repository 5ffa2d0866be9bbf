"""Data sets of many layouts, opened by their address: the same records, with original bytes."""

from __future__ import annotations

import builtins
import dataclasses
import json
import shutil

import numpy as np
import pytest
from made_pictures import picture

from corl_jax.core.errors import UserError
from corl_jax.data.sources import hub_tables
from corl_jax.data.sources.addresses import open_source
from corl_jax.data.sources.presets import PRESETS

datasets = pytest.importorskip("datasets")


@pytest.fixture
def open_at(tmp_path):
    """``open_source`` with a cache of its own."""

    def open_(address, split="train", columns=None):
        cache = str(tmp_path / "cache")
        return open_source(str(address), split, columns or {}, cache_dir=cache)

    return open_


def message_of(function, *args, **options):
    with pytest.raises(UserError) as error:
        function(*args, **options)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000
    return str(error.value)


def texts_of(source, *ignored):
    """The records of a source without images and what names their rows."""
    records = [source.text_record(i) for i in range(len(source))]
    plain = {"image": None, "id": "", "location": ""}
    return [dataclasses.replace(record, **plain) for record in records]


def x2x_rows(n=3):
    return [
        {
            "prompt": f"picture {i}",
            "real_image": {"bytes": picture(40 * i), "path": f"{i}.jpg"},
            "qa_problem": "What?\nOptions:\nA. one\nB. two",
            "qa_solution": f"<answer>{'AB'[i % 2]}</answer>",
            "qa_type": "MC",
        }
        for i in range(n)
    ]


def as_dataset(rows, **features):
    data = datasets.Dataset.from_list(rows)
    for name, feature in features.items():
        data = data.cast_column(name, feature)
    return data


PHOTO_LAYOUTS = ("records.jsonl", "train-00000-of-00001.parquet", "", "saved", "saved_splits")


@pytest.mark.parametrize("layout", PHOTO_LAYOUTS)
def test_photographs_of_every_layout_are_the_same(test_data, tmp_path, open_at, layout):
    photos = test_data("data/photos")
    address = photos / layout
    if layout.startswith("saved"):
        data = datasets.load_dataset(
            "parquet",
            data_files=str(photos / "train-00000-of-00001.parquet"),
            cache_dir=str(tmp_path / "made"),
        )
        address = tmp_path / "saved"
        (data if layout == "saved_splits" else data["train"]).save_to_disk(str(address))
    source, expected = open_at(address), open_at(photos / "records.jsonl")

    assert len(source) == 12 and not source.unreadable and source.has_image_files
    assert texts_of(source) == texts_of(expected)
    rows = (photos / "records.jsonl").read_text("utf-8").splitlines()
    for i in range(12):
        original = (photos / json.loads(rows[i])["real_image"]).read_bytes()
        assert source.image_bytes(i) == original
        np.testing.assert_array_equal(source[i].image, expected[i].image)
        source.check_image(i)


def test_files_of_a_hub_data_set_on_disk(tmp_path, open_at, monkeypatch):
    # Rows are read in several blocks.
    monkeypatch.setattr(hub_tables, "ROWS_PER_READ", 3)
    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    rows = x2x_rows(5)
    image = {"real_image": datasets.Image()}
    for i, part in enumerate((rows[:2], rows[2:4])):
        as_dataset(part, **image).to_parquet(str(folder / f"data/train-0000{i}-of-00002.parquet"))
    as_dataset(rows[4:], **image).to_parquet(str(folder / "data/validation-00000-of-00001.parquet"))

    train, test = open_at(folder), open_at(folder, "test")
    assert [train[i].prompt for i in range(4)] == [row["prompt"] for row in rows[:4]]
    assert [train.image_bytes(i) for i in range(4)] == [r["real_image"]["bytes"] for r in rows[:4]]
    assert len(test) == 1 and test[0].id == "test-1" and test[0].answer == "A"

    # The same rows have the same fingerprint wherever they lie, and other ones another.
    shutil.copytree(folder, tmp_path / "copy")
    assert open_at(tmp_path / "copy").fingerprint() == train.fingerprint()
    rows[0]["qa_solution"] = "B"
    as_dataset(rows[:2], **image).to_parquet(str(folder / "data/train-00000-of-00002.parquet"))
    assert open_at(folder).fingerprint() != train.fingerprint()


def test_bad_rows_of_parquet_are_named(tmp_path, open_at):
    rows = x2x_rows(6)
    rows[0]["real_image"]["bytes"] = picture(0)[:100]
    rows[1]["real_image"]["bytes"] = None
    rows[2]["real_image"] = None
    rows[3]["qa_solution"] = "<answer>C</answer>"
    rows[4]["qa_type"] = None
    as_dataset(rows).to_parquet(str(tmp_path / "rows.parquet"))
    source = open_at(tmp_path / "rows.parquet")

    assert set(source.unreadable) == {1, 3}
    assert "1.jpg', which does not exist" in source.unreadable[1]
    assert source.unreadable[1].startswith("row 2 of ") and "got 'C'" in source.unreadable[3]
    assert "cannot be read" in message_of(source.check_image, 0)
    assert "row 1 of " in message_of(lambda: source[0])
    assert source[2].image is None and source.image_bytes(2) is None
    assert source[4].qa_type == "MC" and source[5].answer == "B"


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_a_file_that_was_cut_off_is_one_line(tmp_path, open_at, suffix):
    as_dataset(x2x_rows()).to_parquet(str(tmp_path / "whole.parquet"))
    content = (tmp_path / "whole.parquet").read_bytes()
    (tmp_path / f"cut.{suffix}").write_bytes(content[: len(content) // 2])
    message = message_of(open_at, tmp_path / f"cut.{suffix}")
    assert f"cut.{suffix}' cannot be read as {suffix.title()} (" in message


@pytest.mark.parametrize(
    ("name", "row", "features", "expected"),
    [
        (
            "x2x_rft_22k",
            x2x_rows(1)[0] | {"text": "no prompt", "label": 3, "cls_problem": "Which?"},
            {"real_image": datasets.Image()},
            {
                "class_question": "Which?",
                "prompt": "picture 0",
                "answer": "A",
                "qa_type": "MC",
                "choices": ("one", "two"),
            },
        ),
        (
            "clevr_counting",
            {"image": picture(3), "problem": "How many items?", "solution": "<answer> 3 </answer>"},
            {"image": datasets.Image()},
            {"prompt": "", "question": "How many items?", "answer": "3", "kind": "count"},
        ),
        (
            "geoqa",
            {"image": picture(3), "problem": "Find x.", "solution": "<answer> 60° </answer>"},
            {"image": datasets.Image()},
            {"question": "Find x.", "answer": "60°", "qa_type": "OE", "kind": "geometry"},
        ),
        (
            "geometry3k",
            {"images": [picture(3)], "problem": "<image>Find x.", "answer": "\\sqrt{3}"},
            {"images": datasets.List(datasets.Image())},
            {
                "question": "Find x.",
                "answer": "\\sqrt{3}",
                "solution": "<answer>\\sqrt{3}</answer>",
            },
        ),
    ],
)
def test_presets_of_the_hub(monkeypatch, tmp_path, open_at, name, row, features, expected):
    calls = []

    def load_dataset(**options):
        calls.append(options)
        return datasets.DatasetDict({"train": as_dataset([row], **features)})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = open_at(name)
    assert calls[0]["path"] == PRESETS[name].hub and calls[0]["cache_dir"] == str(
        tmp_path / "cache"
    )
    record = source[0]
    assert {field: vars(record)[field] for field in expected} == expected
    assert record.image.shape == (4, 6, 3) and source.image_bytes(0)[:2] == b"\xff\xd8"
    message = message_of(open_at, name, "test")
    assert "must have a split test or validation" in message and "it has train" in message

    # Files of the set that someone has on disk.
    monkeypatch.undo()
    as_dataset([row], **features).to_parquet(str(tmp_path / "train.parquet"))
    assert texts_of(open_at(f"{name}:{tmp_path}")) == texts_of(source)


def test_a_data_set_of_the_hub(monkeypatch, open_at):
    def load_dataset(**options):
        asked.append(options)
        raise ConnectionError("no network")

    asked = []
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    message = message_of(open_at, "hub:owner/name/config@abc")
    assert "cannot be loaded from the hub (ConnectionError: no network)" in message
    assert {k: asked[0][k] for k in ("path", "name", "revision")} == {
        "path": "owner/name", "name": "config", "revision": "abc",
    }  # fmt: skip
    for address in ("hub:name", "hub:", "hub:a//b", "hub:a/b/c/d"):
        assert "must be hub:OWNER/NAME" in message_of(open_at, address)


def test_without_the_library(monkeypatch, tmp_path, open_at):
    import_ = builtins.__import__

    def refuse(name, *args, **options):
        if name == "datasets":
            raise ImportError(name)
        return import_(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    (tmp_path / "a.parquet").write_bytes(b"")
    assert "pip install 'corl_jax[data]'" in message_of(open_at, tmp_path / "a.parquet")


def test_a_tfds_data_set_by_name(tmp_path, open_at):
    columns = {"prompt": "captions.text.0", "question": "=What is it?", "answer": "label"}
    source = open_at("tfds:corl_jax_made_pictures", columns=columns)
    records = [source[i] for i in range(len(source))]
    assert [record.prompt for record in records] == [f"caption {i}" for i in range(4)]
    assert [record.answer for record in records] == ["cat", "dog", "cat", "dog"]
    assert {record.question for record in records} == {"What is it?"}
    assert [source.image_bytes(i) for i in range(4)] == [picture(40 * i) for i in range(4)]
    assert len(open_at("tfds:corl_jax_made_pictures", "test", columns)) == 2

    assert "cannot be opened" in message_of(open_at, "tfds:corl_jax_nothing")
    message = message_of(open_at, "tfds:corl_jax_made_pictures", "train", {"prompt": "caption"})
    assert "which has captions, image, label; got 'caption'. Did you mean 'captions'?" in message


def test_prompts_without_pictures(test_data, tmp_path, open_at):
    data = test_data("data")
    for address, count, prompt, kind in (
        (f"geneval:{data / 'geneval'}", 553, "a photo of a bench", "single_object"),
        (data / "geneval/evaluation_metadata.jsonl", 553, "a photo of a bench", ""),
        (f"t2i_r1:{data / 't2i_r1'}", 500, "a photo of a car below a zebra", "spatial"),
        (f"dpg:{data / 'dpg'}", 10, "An expansive field, blanketed", ""),
    ):
        source = open_at(address)
        record = source[0]
        assert len(source) == count and not source.unreadable and not source.has_image_files
        assert record.prompt.startswith(prompt) and record.kind == kind
        assert (record.image, record.question, record.answer) == (None, "", "")

    (tmp_path / "prompts.txt").write_text("a cat\n\n  a dog on a mat \n", "utf-8")
    source = open_at(tmp_path / "prompts.txt")
    assert [source[i].prompt for i in range(2)] == ["a cat", "a dog on a mat"]
    assert source[1].id == "prompts-3"
    assert "geneval:data/geneval" in message_of(open_at, "geneval")


def test_questions_alone_as_pope_writes_them(test_data, tmp_path, open_at):
    lines = (
        (test_data("data/pope") / "coco_pope_adversarial_first300.jsonl").read_text().split("\n")
    )
    (tmp_path / "pope.jsonl").write_text("\n".join(lines))
    for name in {json.loads(line)["image"] for line in lines if line}:
        (tmp_path / name).write_bytes(picture(9))
    source = open_at(f"pope:{tmp_path}/pope.jsonl")
    assert len(source) == 300 and not source.unreadable
    record = source[0]
    assert (record.id, record.prompt, record.answer, record.qa_type) == ("1", "", "yes", "OE")
    assert record.question == "Is there a snowboard in the image?"

    # Without the preset, its texts would be taken for captions.
    source = open_at(tmp_path / "pope.jsonl")
    assert len(source.unreadable) == 300
    assert "question must be a text of characters" in source.unreadable[0]


def test_folders_of_pictures_with_captions(tmp_path, open_at):
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(picture(i))
    assert "pictures without captions" in message_of(open_at, tmp_path)
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text(f"caption {i}\n", "utf-8")
    source = open_at(tmp_path)
    assert [source[i].prompt for i in range(3)] == ["caption 0", "caption 1", "caption 2"]
    assert [source.image_bytes(i) for i in range(3)] == [picture(i) for i in range(3)]

    # One without the other is named.
    (tmp_path / "1.txt").unlink()
    (tmp_path / "3.txt").write_text("alone")
    (tmp_path / "4.txt").write_bytes(b"caf\xe9")
    (tmp_path / "4.png").write_bytes(picture(4, "PNG"))
    source = open_at(tmp_path)
    assert {i: source.unreadable[i].split("' ")[1][:30] for i in source.unreadable} == {
        1: "must have its caption in 1.txt",
        3: "must have one picture beside i",
        4: "must be text in UTF-8; got byt",
    }

    # A table of captions counts before texts.
    rows = [{"file_name": "0.jpg", "text": "first"}, {"file_name": "2.jpg", "text": "second"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [open_at(tmp_path)[i].prompt for i in range(2)] == ["first", "second"]
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "metadata.csv").write_text(
        'file_name,text\n0.jpg,"one, two"\n2.jpg,second\n9.jpg\n'
    )
    source = open_at(tmp_path)
    assert source[0].prompt == "one, two" and set(source.unreadable) == {2}


def test_columns_are_mapped(tmp_path, open_at):
    (tmp_path / "0.jpg").write_bytes(picture(1))
    row = {
        "file": {"name": "0.jpg"},
        "turns": [{"value": "What?"}, {"value": "a cat"}],
        "text": "t",
    }
    (tmp_path / "rows.json").write_text(json.dumps([row, row]))
    columns = {
        "image": "file.name",
        "question": "turns.0.value",
        "answer": "turns.1.value",
        "kind": "=animals",
        "prompt": "-",
        "id": "",
    }
    record = open_at(tmp_path / "rows.json", columns=columns)[1]
    assert (record.prompt, record.question, record.answer) == ("", "What?", "a cat")
    assert (record.kind, record.id) == ("animals", "rows-2") and record.image is not None

    # A column that one field takes is not the usual one of another any more.
    (tmp_path / "labels.json").write_text(json.dumps([{"label": "cat"}]))
    record = open_at(tmp_path / "labels.json", columns={"prompt": "label"})[0]
    assert (record.prompt, record.answer) == ("cat", "")

    for wrong, message in (
        (
            {"question": "turn"},
            "config.data.columns.question must be a column of .*Did you mean 'tu",
        ),
        ({"caption": "text"}, "columns must have some of the fields id, prompt"),
        (
            {"prompt": "-"},
            "must have a column of prompts or of questions; it has file, text, turns",
        ),
    ):
        with pytest.raises(UserError, match=message):
            open_at(tmp_path / "rows.json", columns=wrong)


def test_what_is_no_data_set(tmp_path, open_at):
    (tmp_path / "a.bin").write_bytes(b"")
    assert "a file that ends in one of .jsonl" in message_of(open_at, tmp_path / "a.bin")
    assert "or one of x2x_rft_22k" in message_of(open_at, "x2x_rft")
    assert "it has a.bin" in message_of(open_at, tmp_path)
    (tmp_path / "train.jsonl").write_text('{"prompt": "a"}')
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "metadata.jsonl").write_text('{"prompt": "a"}')
    assert len(open_at(tmp_path, "test")) == 1
    (tmp_path / "train.jsonl").rename(tmp_path / "metadata.jsonl")
    assert "has no train.jsonl" in message_of(open_at, tmp_path)
    (tmp_path / "metadata.jsonl").rename(tmp_path / "train.jsonl")
    assert "it is one file of training" in message_of(open_at, tmp_path / "train.jsonl", "test")
