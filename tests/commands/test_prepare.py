"""``corl prepare``: rows are checked by the config of a run, and refused input is one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from made_pictures import CorlJaxMadePictures, picture
from PIL import Image

from corl_jax.commands.cli import main
from corl_jax.data.sources.addresses import open_source

ROW = {
    "prompt": "a red circle",
    "real_image": "0.png",
    "qa_problem": "how many objects are there?",
    "qa_solution": "one",
    "qa_type": "OE",
}


@pytest.fixture
def folder(tmp_path, rng):
    """Twelve rows that differ, of which four cannot be used by a run in the embedded world."""
    rows = []
    for i in range(12):
        pixels = rng.integers(0, 255, (9, 9, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        rows.append(ROW | {"real_image": f"{i}.png"})
    rows[2] |= {"prompt": "a cat"}
    rows[5] |= {"qa_problem": "how many objects are there? " * 20}
    rows[7] |= {"qa_solution": "B", "qa_type": "MC"}
    (tmp_path / "9.png").write_bytes(b"no picture")
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_rows_are_checked_by_the_config_of_a_run(capsys, folder):
    out = folder / "prepared"
    line = ["prepare", str(folder), "--out", str(out), "--max-bad", "0.5", "--processes", "2"]
    run = ["--config", "configs/unified.py", "--set", "config.rl.rollout.text_prompt_length=64"]
    assert main([*line, *run]) == 0
    assert capsys.readouterr().out == f"train: 8 of 12 rows\n{out}\n"
    rows = [json.loads(row) for row in (out / "rejected.jsonl").read_text().splitlines()]
    assert {row["row"]: True for row in rows} == dict.fromkeys((2, 5, 7, 9), True)
    problems = {row["row"]: row["reason"] for row in rows}
    assert "does not know 'cat'" in problems[2] and "at most 64 are allowed" in problems[5]
    assert "choices" in problems[7] and "known format" in problems[9]

    # The page says what the rows are like; the source is one like any other.
    page = (out / "statistics.html").read_text()
    assert "8 of 12 rows; 4 rejected" in page and "tokens of the question" in page
    assert (out / "pictures-train.jpg").stat().st_size > 1000
    source = open_source(str(out), "train")
    assert len(source) == 8 and source.image_bytes(1) == (folder / "1.png").read_bytes()
    assert source[1].prompt == "a red circle"


def test_a_tfds_data_set_by_name(capsys, tmp_path, monkeypatch):
    """The rows are all there is: what they do not have comes from ``--column``."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fields = ("prompt=captions.text.0", "question==What is it?", "answer=label")
    columns = [flag for field in fields for flag in ("--column", field)]
    out = tmp_path / "prepared"
    line = ["prepare", f"tfds:{CorlJaxMadePictures.name}", "--out", str(out), "--processes", "1"]
    assert main([*line, *columns]) == 0
    assert capsys.readouterr().out.startswith("train: 4 of 4 rows\n")
    source = open_source(str(out), "train")
    assert [source[i].answer for i in range(4)] == ["cat", "dog", "cat", "dog"]
    assert [source.image_bytes(i) for i in range(4)] == [picture(40 * i) for i in range(4)]


def test_a_folder_that_datasets_has_saved(capsys, folder, tmp_path):
    datasets = pytest.importorskip("datasets", reason="writes the folder")
    rows = [{"prompt": f"{i} circles", "image": str(folder / f"{i}.png")} for i in range(3)]
    data = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    datasets.DatasetDict({"train": data}).save_to_disk(str(tmp_path / "saved"))
    out = tmp_path / "prepared"
    line = ["prepare", str(tmp_path / "saved"), "--out", str(out), "--processes", "1"]
    assert main(line) == 0
    assert capsys.readouterr().out.startswith("train: 3 of 3 rows\n")
    source = open_source(str(out), "train")
    for i in range(3):
        assert source[i].prompt == f"{i} circles"
        assert source.image_bytes(i) == (folder / f"{i}.png").read_bytes()


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--out", "full"], "must be a new or empty folder"),
        (["--out", "new", "--splits", "train,dev"], "--splits must be some of train, test"),
        (["--out", "new", "--max-bad", "2"], "--max-bad must be"),
        (["--out", "new", "--processes", "0"], "--processes must be"),
        (["--out", "new", "--set", "config.seed=1"], "Add --config"),
        (["--out", "new", "--splits", "test"], "test"),
        (["--out", "new", "--column", "question"], "--column must be FIELD=COLUMN; got 'question'"),
        (["--out", "new", "--column", "topic=a"], "must have some of the fields"),
        (
            ["--out", "new", "--config", "configs/unified.py", "--set", "seed=1"],
            "--set must be config.KEY=VALUE",
        ),
        (["--out", "new"], "--max-bad"),
    ],
)
def test_refused_input_is_one_line(capsys, folder, flags, problem):
    (folder / "full").mkdir()
    (folder / "full" / "file").touch()
    flags[1] = str(folder / flags[1])
    assert main(["prepare", str(folder), *flags]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert problem in error
    assert not (folder / "new").exists()
