"""The prepared set: what is kept, what is left out and why, going on, and the same records again."""

from __future__ import annotations

import dataclasses
import io
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from corl_jax.core.errors import UserError
from corl_jax.core.types import Record
from corl_jax.core.workers.pool import shared_pool
from corl_jax.data.prepared import prepare
from corl_jax.data.prepared.features import record_features
from corl_jax.data.prepared.prepare import finish, partial_folder, prepare_splits
from corl_jax.data.prepared.row_pass import RowPass
from corl_jax.data.prepared.source import PreparedSource
from corl_jax.data.prepared.summary import reason_kind
from corl_jax.data.selection import select_rows
from corl_jax.data.sources.addresses import open_source

ROW = {
    "prompt": "a cat é",
    "qa_problem": "What is it?\nA. a cat\nB. a dog",
    "qa_solution": "<think>fur</think><answer>A</answer>",
    "qa_type": "MC",
    "kind": "animal",
}


def encoded(pixels, picture_format="JPEG", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, picture_format, **options)
    return buffer.getvalue()


@pytest.fixture
def write_folder(tmp_path):
    """A function from rows and pictures by name to a folder with a split."""

    def write(rows, pictures, split="train"):
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        for name, data in pictures.items():
            (folder / name).write_bytes(data)
        lines = [json.dumps(ROW | row) for row in rows]
        (folder / f"{split}.jsonl").write_text("\n".join(lines), "utf-8")
        return folder

    return write


def run(folder, out, splits=("train",), checks=(), max_bad=1.0, pool=None, **identity):
    identity = {"source": str(folder)} | identity
    sources = {split: open_source(str(folder), split) for split in splits}
    pool = pool or shared_pool(1)
    prepared = prepare_splits(
        sources,
        lambda source: RowPass(source, checks, lambda record: {"prompt": 3}, pool, 1),
        out,
        identity,
        max_bad,
    )
    finish(out, prepared, identity)
    return prepared


def rejected_of(folder):
    return [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]


def test_a_prepared_set_has_the_same_records_and_the_same_bytes(write_folder, tmp_path, rng):
    pixels = rng.integers(0, 255, (40, 60, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    pictures = {
        "plain.jpg": encoded(pixels),
        "turned.jpg": encoded(pixels, exif=exif, quality=40),
        "wide.png": encoded((pixels[..., 0].astype(np.uint16) << 8), "PNG"),
        "clear.png": encoded(np.dstack([pixels, pixels[..., :1]]), "PNG"),
        "picture.webp": encoded(pixels, "WEBP"),
    }
    rows = [{"id": f"é{name}", "real_image": name} for name in pictures]
    folder = write_folder(rows, pictures)
    write_folder(rows[:2], {}, "test")
    out = tmp_path / "out"
    train, test = run(folder, out, ("train", "test"))
    assert (train.kept, test.kept, train.left_out) == (5, 2, [])
    assert train.summary.values["format of pictures"]["PNG I;16"] == 1
    assert train.summary.numbers["width of pictures in pixels"] == {60: 4, 40: 1}

    # Opened by its address, like any other.
    source, original = open_source(str(out), "train"), open_source(str(folder), "train")
    assert isinstance(source, PreparedSource) and len(source) == 5
    for i, data in enumerate(pictures.values()):
        assert source.image_bytes(i) == data
        record, expected = source[i], original[i]
        np.testing.assert_array_equal(record.image, expected.image)
        assert _texts(record) == _texts(expected) == _texts(source.text_record(i))
        assert source.qa_type_and_kind(i) == ("MC", "animal")
    assert source.fingerprint() != open_source(str(out), "test").fingerprint()
    assert not partial_folder(out).exists()
    assert not [path for path in out.iterdir() if path.is_dir() or path.name == "begun.json"]


def _texts(record):
    return {name: value for name, value in vars(record).items() if name != "image"}


def test_rows_that_cannot_be_used_are_left_out_with_their_reasons(write_folder, tmp_path, rng):
    data = encoded(rng.integers(0, 255, (64, 64, 3), np.uint8))
    pictures = {"a.jpg": data, "cut.jpg": data[: len(data) // 2], "no.jpg": b"<html>"}
    rows = [
        {"real_image": "a.jpg"},
        {"real_image": "cut.jpg"},
        {"real_image": "no.jpg", "prompt": "too long"},
        {"real_image": "a.jpg", "qa_solution": "Z"},
        {"real_image": "a.jpg"},
        {"real_image": "a.jpg", "prompt": "another"},
    ]

    def check(record):
        if "long" in record.prompt:
            raise ValueError(f"record {record.id!r}: its prompt is long")

    out = tmp_path / "out"
    (split,) = run(write_folder(rows, pictures), out, checks=[check])
    source = open_source(str(out), "train")
    assert [source[i].prompt for i in range(len(source))] == [ROW["prompt"], "another"]
    found = rejected_of(out)
    assert [(row["row"], row["kind"]) for row in found] == [
        (1, "rejected"),
        (2, "rejected"),
        (3, "rejected"),
        (4, "duplicate"),
    ]
    assert all(row["file"] == f"{tmp_path / 'data'} (train)" for row in found)
    assert "cannot be read" in found[0]["reason"] and "line 2" in found[0]["reason"]
    assert "its prompt is long" in found[1]["reason"] and "known format" in found[1]["reason"]
    assert "answer must be the letter of a choice" in found[2]["reason"]
    assert found[3]["reason"] == "it has the same picture and texts as row 0"
    assert split.summary.values["rejected"].total() == 3


def test_a_set_with_too_many_bad_rows_is_refused_with_its_reasons(write_folder, tmp_path, rng):
    data = encoded(rng.integers(0, 255, (8, 8, 3), np.uint8))
    rows = [{"real_image": "a.jpg", "prompt": f"{i}"} for i in range(10)]
    rows += [{"real_image": "a.jpg", "qa_solution": answer} for answer in "ZYX"]
    folder, out = write_folder(rows, {"a.jpg": data}), tmp_path / "out"
    with pytest.raises(UserError) as error:
        run(folder, out, max_bad=0.1)
    assert "got 3 in the first 13 rows: 3 x answer must be the letter of a choice" in str(
        error.value
    )
    assert "\n" not in str(error.value) and not out.exists()
    assert len(rejected_of(partial_folder(out))) == 3

    # A larger share goes on from what is there.
    (split,) = run(folder, out, max_bad=0.3)
    assert split.kept == 10


def test_a_pass_that_was_ended_goes_on(write_folder, tmp_path, rng, monkeypatch):
    monkeypatch.setattr(prepare, "ROWS_PER_BLOCK", 3)
    data = encoded(rng.integers(0, 255, (8, 8, 3), np.uint8))
    rows = [{"real_image": "a.jpg", "prompt": f"{i % 7}"} for i in range(10)]
    folder = write_folder(rows, {"a.jpg": data})
    run(folder, tmp_path / "unbroken")

    def check(record):
        seen.append(record.prompt)
        if len(seen) == 8:
            raise KeyboardInterrupt

    seen: list[str] = []
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(folder, out, checks=[check])
    assert not out.exists()
    with pytest.raises(UserError, match="begun with another config"):
        run(folder, out, checks=[check], config={"seed": 1})

    # Blocks that are done are not checked again; rows that repeat those of earlier blocks are found.
    interrupted = len(seen)
    run(folder, out, checks=[check])
    assert 0 < len(seen) - interrupted <= 10 - 3
    for name in ("rejected.jsonl", "dataset_info.json"):
        assert (out / name).read_text() == (tmp_path / "unbroken" / name).read_text()
    assert [row["row"] for row in rejected_of(out)] == [7, 8, 9]
    digests = [
        open_source(str(tmp_path / name), "train").fingerprint() for name in ("out", "unbroken")
    ]
    assert digests[0] == digests[1]

    # Changed data is other data.
    partial_folder(out).mkdir()
    (partial_folder(out) / "begun.json").write_text(json.dumps({"source": str(folder)}))
    with pytest.raises(UserError, match="begun with another fingerprints"):
        run(folder, out)


@pytest.mark.parametrize("damage", ["missing", "split"])
def test_a_damaged_set_is_one_line(write_folder, tmp_path, rng, damage):
    data = encoded(rng.integers(0, 255, (8, 8, 3), np.uint8))
    folder = write_folder([{"real_image": "a.jpg"}], {"a.jpg": data})
    out = tmp_path / "out"
    run(folder, out)
    if damage == "missing":
        next(out.glob("*.array_record*")).unlink()
    split = "test" if damage == "split" else "train"
    with pytest.raises(UserError, match="prepared set") as error:
        open_source(str(out), split)
    assert "\n" not in str(error.value)


def test_reasons_are_counted_without_what_differs():
    first = (
        "record 'r\\'1' (line 3 of '/a/b.jsonl'): answer must be the letter; got 'Z'. Correct it"
    )
    second = 'record "x" (line 77 of \'/a/b.jsonl\'): answer must be the letter; got "Q"'
    assert reason_kind(first) == reason_kind(second) == "answer must be the letter"
    unknown = "record 'r' (row 1 of 'f'): the tokenizer 'tiny' does not know 'a', 'cat'; use words"
    assert reason_kind(unknown) == "the tokenizer … does not know …"
    assert reason_kind("line 5 of 'x.jsonl' must be an object; got 3") == "must be an object"


def test_photos_keep_their_bytes(test_data, tmp_path):
    photos = test_data("data/photos")
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "images").symlink_to(photos / "images")
    (folder / "train.jsonl").write_bytes((photos / "records.jsonl").read_bytes())
    (split,) = run(folder, tmp_path / "out")
    source = open_source(str(tmp_path / "out"), "train")
    files = [json.loads(line)["real_image"] for line in (folder / "train.jsonl").open()]
    assert split.kept == len(files) == 12
    for i, name in enumerate(files):
        assert source.image_bytes(i) == pathlib.Path(photos / name).read_bytes()


def test_every_field_of_a_record_is_a_feature():
    # But for the template, which a run chooses.
    fields = {field.name for field in dataclasses.fields(Record)} - {"template"}
    assert record_features().keys() == fields


def test_the_same_records_are_held_out_of_a_prepared_set(write_folder, tmp_path):
    """A row that is left out changes no other's side."""
    rows = [{"id": f"row {i}", "prompt": f"{i}", "real_image": "a.png"} for i in range(20)]
    rows[3]["real_image"] = "broken.png"
    data = encoded(np.zeros((4, 4, 3), np.uint8), "PNG")
    folder, out = write_folder(rows, {"a.png": data, "broken.png": data[:40]}), tmp_path / "out"
    run(folder, out)
    for side in ("train", "test"):
        ids = []
        for address in (folder, out):
            source = open_source(str(address), "train")
            chosen = select_rows(source, held_out=0.4, side=side)
            ids.append([source.text_record(row).id for row in chosen])
        assert ids[1] == [record_id for record_id in ids[0] if record_id != "row 3"]
        assert 4 < len(ids[1]) < 15
