"""A benchmark from its file to its results: made pictures, an untrained policy, real programs."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import openpyxl
import pytest
from made_benchmarks import MAKERS, make_picture, write_lines

from corl_jax.commands.cli import main
from corl_jax.suites.results import read_results
from corl_jax.suites.scoring.yes_no import pope_answer

CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pope_file(test_data, tmp_path_factory):
    """POPE's first 300 questions about made pictures, one for each of its 50."""
    source = test_data("data") / "pope" / "coco_pope_adversarial_first300.jsonl"
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    folder = tmp_path_factory.mktemp("pope")
    for number, name in enumerate(sorted({row["image"] for row in rows})):
        make_picture(number).save(folder / name)
    return write_lines(folder / "coco_pope_adversarial.json", rows)


def command(policy, suite, data, out, *flags):
    return [
        "evaluate", "--policy", str(policy), "--suite", suite, "--data", str(data), "--out", str(out),
        "--completion-length", "8", *flags,
    ]  # fmt: skip


def answers(folder):
    return {record.id: record.output for record in read_results(folder).records}


def test_pope_by_its_own_rules(policy_folder, pope_file, tmp_path, capsys):
    assert main(command(policy_folder, "pope", pope_file, tmp_path / "out")) == 0
    results = read_results(tmp_path / "out")
    assert len(results.records) == 300 and results.about["judge"] == ""

    # The original evaluation, written down once more.
    said = [pope_answer(record.output) for record in results.records]
    rows = [json.loads(line) for line in pope_file.read_text().splitlines()]
    labels = [row["label"] for row in rows]
    tp = sum(s == r == "yes" for s, r in zip(said, labels, strict=True))
    fp = sum(s == "yes" and r == "no" for s, r in zip(said, labels, strict=True))
    fn = sum(s == "no" and r == "yes" for s, r in zip(said, labels, strict=True))
    values = {name: metric["value"] for name, metric in results.metrics.items()}
    right = sum(s == r for s, r in zip(said, labels, strict=True))
    assert values["correct"] == pytest.approx(right / 300)
    assert values["said_yes"] == pytest.approx(said.count("yes") / 300)
    assert values["precision"] == pytest.approx(tp / (tp + fp) if tp + fp else 0)
    assert values["recall"] == pytest.approx(tp / (tp + fn) if tp + fn else 0)
    assert "correct" in capsys.readouterr().out

    # What POPE's own script reads, and the pictures of the questions.
    dump = (tmp_path / "out" / "pope.jsonl").read_text().splitlines()
    assert [json.loads(line)["question"] for line in dump] == [row["text"] for row in rows]
    assert all((tmp_path / "out" / record.picture).is_file() for record in results.records)
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 50


@pytest.mark.parametrize("suite", sorted(set(MAKERS) - {"pope"}))
def test_every_benchmark_runs(suite, policy_folder, tmp_path):
    data = MAKERS[suite](tmp_path / "data")
    assert main(command(policy_folder, suite, data, tmp_path / "out")) == 0
    results = read_results(tmp_path / "out")
    assert results.suite == suite and results.records
    assert all(0 <= v <= 1 for record in results.records for v in record.scores.values())

    sheet = openpyxl.load_workbook(tmp_path / "out" / f"{suite}.xlsx").active
    header, *rows = sheet.iter_rows(values_only=True)
    assert {"index", "question", "answer", "prediction"} <= set(header)
    written = {str(row[header.index("index")]): row[header.index("prediction")] for row in rows}
    # A workbook cannot have control characters.
    expected = {key: CONTROLS.sub("", text) for key, text in answers(tmp_path / "out").items()}
    assert {key: value or "" for key, value in written.items()} == expected


def test_a_killed_suite_goes_on_and_asks_nothing_twice(policy_folder, pope_file, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    flags = ("--batch-size", "32")
    assert main(command(policy_folder, "pope", pope_file, whole, *flags)) == 0

    # A process of its own, killed when the second batch is on disk.
    line = command(policy_folder, "pope", pope_file, killed, *flags)
    env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    process = subprocess.Popen(
        [sys.executable, "-m", "corl_jax.commands.cli", *line], env=env, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while len(list((killed / "answers").glob("*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    times = {path.name: path.stat().st_mtime_ns for path in (killed / "answers").glob("*.json")}
    assert times and not (killed / "results.json").exists()

    assert main(line) == 0
    after = {path.name: path.stat().st_mtime_ns for path in (killed / "answers").glob("*.json")}
    assert times.items() <= after.items() and len(after) > len(times)
    assert answers(killed) == answers(whole)
    assert read_results(killed).metrics == read_results(whole).metrics


def test_two_processes_give_the_numbers_of_one(policy_folder, pope_file, tmp_path):
    flags = ("--batch-size", "32", "--n", "100")
    assert main(command(policy_folder, "pope", pope_file, tmp_path / "one", *flags)) == 0

    with socket.socket() as free_port:
        free_port.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free_port.getsockname()[1]}"
    env = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    line = command(policy_folder, "pope", pope_file, tmp_path / "two", *flags)
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "corl_jax.commands.cli", *line, "--coordinator", coordinator,
             "--processes", "2", "--process", str(number)],
            env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for number in (0, 1)
    ]  # fmt: skip
    for process in processes:
        _, stderr = process.communicate(timeout=180)
        assert process.returncode == 0, stderr
    assert answers(tmp_path / "two") == answers(tmp_path / "one")
    one, two = (read_results(tmp_path / name).metrics for name in ("one", "two"))
    assert one == two


def refused(capsys, line):
    assert main(line) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    return error


def test_refusals_write_nothing_and_keep_answers(policy_folder, pope_file, tmp_path, capsys):
    out = tmp_path / "out"
    line = command(policy_folder, "pope", pope_file, out, "--n", "20")
    assert "--suite must be one of shapes, dpg, geneval, logicvista" in refused(
        capsys, command(policy_folder, "birds", pope_file, out)
    )
    no_data = ["evaluate", "--policy", str(policy_folder), "--suite", "pope", "--out", str(out)]
    assert "--suite pope needs --data" in refused(capsys, no_data)
    assert not out.exists()

    # Results of other settings, of other questions, and other files are left alone.
    assert main(line) == 0
    before = sorted((path, path.stat().st_mtime_ns) for path in out.rglob("*"))
    assert "made with one setting of 'answer_tokens'; got 9, and 8 before" in refused(
        capsys, [*line, "--completion-length", "9"]
    )
    assert "made with one setting of 'questions'; got 21, and 20 before" in refused(
        capsys, [*line[:-1], "21"]
    )
    assert sorted((path, path.stat().st_mtime_ns) for path in out.rglob("*")) == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    assert "it has other files alone" in refused(
        capsys, command(policy_folder, "pope", pope_file, tmp_path / "other")
    )


def test_questions_without_answers_and_broken_pictures_are_named(policy_folder, tmp_path, capsys):
    data = MAKERS["pope"](tmp_path)
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    lacking = write_lines(tmp_path / "lacking.json", [rows[0], {**rows[1], "label": ""}])
    error = refused(capsys, command(policy_folder, "pope", lacking, tmp_path / "a"))
    assert "line 2" in error and "answer must be a text" in error and not (tmp_path / "a").exists()

    # The picture of the last batch is broken: what was answered before stays.
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    good = [{**rows[0], "question_id": number} for number in range(8)]
    bad = {**rows[0], "question_id": 9, "image": "broken.jpg"}
    broken = write_lines(tmp_path / "broken.json", [*good, bad])
    line = command(policy_folder, "pope", broken, tmp_path / "b", "--batch-size", "8")
    error = refused(capsys, line)
    assert "line 9" in error and "not a picture" in error
    assert [path.name for path in (tmp_path / "b" / "answers").iterdir()] == ["00000.json"]


def test_geneval_is_drawn_scored_and_described(policy_folder, tmp_path, test_data, capsys):
    data = test_data("data") / "geneval" / "evaluation_metadata.jsonl"
    out = tmp_path / "out"
    line = [
        "evaluate", "--policy", str(policy_folder), "--suite", "geneval", "--data", str(data), "--n",
        "3", "--out", str(out), "--scores", "clip_score", "--model", "clip=tiny", "--batch-size", "8",
    ]  # fmt: skip
    assert main(line) == 0
    results = read_results(out)
    assert len(results.records) == 12 and {r.cluster for r in results.records} == {
        "00000",
        "00001",
        "00002",
    }
    assert all(set(r.scores) == {"clip_score", "diversity"} for r in results.records)
    assert results.metrics["diversity"]["value"] > 0
    assert results.metrics["duplicates"]["value"] == 0
    assert 0 < results.metrics["codes_used"]["value"] <= 1
    assert 1 < results.metrics["code_perplexity"]["value"] <= 32
    assert results.about["samples"] == 4 and results.about["guidance"] == 5
    picture = out / "pictures" / "00000" / "samples" / "0000.png"
    before = picture.stat().st_mtime_ns
    assert main(line) == 0 and picture.stat().st_mtime_ns == before

    assert "--guidance-scale of geneval must be one number" in refused(
        capsys, [*line, "--guidance-scale", "1", "5"]
    )
    assert "--detector and --judge-clip go together" in refused(capsys, [*line, "--detector", "x"])
    assert "samples of the suite 'wise' must be 1" in refused(
        capsys, [*line, "--suite", "wise", "--samples", "3"]
    )


def test_the_embedded_world_leaves_records_that_compare(tmp_path, capsys, monkeypatch):
    page, numbers = tmp_path / "page.html", tmp_path / "numbers.json"
    out = tmp_path / "one"
    flags = ["--suite", "shapes", "--n", "8", "--guidance-scale", "2"]
    assert main(["evaluate", "--policy", "tiny", *flags, "--out", str(out)]) == 0
    results = read_results(out)
    values = {name: metric["value"] for name, metric in results.metrics.items()}
    strict = [r.scores["t2i_strict@w=2"] for r in results.records if "t2i_strict@w=2" in r.scores]
    assert len(strict) == 8 and values["t2i_strict@w=2"] == pytest.approx(sum(strict) / 8)
    assert 0 < values["codes_used@w=2"] <= 1 and values["code_perplexity@w=2"] > 1
    assert 0 <= values["near_duplicates_of_other_prompts@w=2"] <= 1
    greedy = [r.scores["qa_greedy"] for r in results.records if "qa_greedy" in r.scores]
    assert values["qa_greedy"] == pytest.approx(sum(greedy) / 8)
    assert all((out / record.picture).is_file() for record in results.records)

    # The same policy against itself: nothing is claimed.
    command = ["compare", str(out), "tiny", "--suite", "shapes", "--n", "8", "--out", str(page)]
    monkeypatch.setattr("corl_jax.commands.suite_runs.WORLD_SCALES", [2.0])
    assert main([*command, "--json", str(numbers)]) == 0
    rows = json.loads(numbers.read_text())["differences"]
    assert rows and {row["verdict"] for row in rows} == {"no difference shown"}
    assert "t2i_strict@w=2" in page.read_text() and "no difference" in capsys.readouterr().out


@pytest.mark.parametrize(
    "suite, flags, name",
    [
        ("pope", ["--samples", "2"], "--samples"),
        ("pope", ["--seed", "0"], "--seed"),
        ("pope", ["--guidance-scale", "5"], "--guidance-scale"),
        ("geneval", ["--plain-roles"], "--plain-roles"),
        ("geneval", ["--completion-length", "4"], "--completion-length"),
        ("shapes", ["--data", "x"], "--data"),
        ("shapes", ["--scores", "clip_score"], "--scores"),
    ],
)
def test_flags_that_would_change_nothing_are_refused(suite, flags, name, tmp_path, capsys):
    data = [] if suite == "shapes" else ["--data", "x"]
    line = ["evaluate", "--policy", "p", "--suite", suite, *data, "--out", str(tmp_path / "out")]
    error = refused(capsys, [*line, *flags])
    assert f"{name} is not for --suite {suite}" in error
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_asked_or_drawn_leaves_no_folder(policy_folder, tmp_path, capsys):
    data = MAKERS["pope"](tmp_path)
    line = command(policy_folder, "pope", data, tmp_path / "out")
    assert "prompts must have at most" in refused(capsys, [*line, "--completion-length", "1000"])

    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat " * 300)
    draw = [
        "evaluate",
        "--policy",
        str(policy_folder),
        "--suite",
        "prompts",
        "--data",
        str(prompts),
    ]
    error = refused(capsys, [*draw, "--out", str(tmp_path / "out")])
    assert "positions of the policy" in error and not (tmp_path / "out").exists()

    (tmp_path / "file").write_text("mine")
    prompts.write_text("a cat")
    error = refused(capsys, [*draw, "--out", str(tmp_path / "file")])
    assert "--out must be a folder" in error and (tmp_path / "file").read_text() == "mine"
