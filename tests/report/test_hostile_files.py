"""Files of a run that were edited or damaged: the report is made, or one line says what is wrong."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hostile_json import SETTINGS, VALUES, raises_at_most_a_user_error, refusal, variants
from hypothesis import given

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.evals.gallery import png_base64
from corl_jax.evals.statistics import read_estimates
from corl_jax.report import charts, page
from corl_jax.report.page import render_page, write_report

PNG = png_base64(np.zeros((2, 2, 3), np.uint8))
ESTIMATE = {"value": 0.5, "stderr": 0.1, "n": 3}
ANSWER = {"text": "<answer>B</answer>", "right": True, "well_formed": False}
FILES = {
    "config.json": {
        "stage": "rl",
        "seed": 0,
        "steps": 9,
        "init_from": "tiny",
        "alarms": {
            "watch": ["loss"],
            "patience": 2,
            "dominant_share": 0.9,
            "diverging_probes": 3,
        },
    },
    "eval.json": {
        "before": {"qa_greedy": ESTIMATE, "t2i_strict@w=2": ESTIMATE},
        "after": {"qa_greedy": ESTIMATE, "t2i_strict@w=2": ESTIMATE},
        "guidance": 2.0,
        "run": {
            "command": "c",
            "date": "d",
            "machine": "m",
            "versions": {"jax": "1"},
            "seconds": 9,
        },
    },
    "samples/gallery_after.json": {
        "guidance": 2.0,
        "prompts": [{"prompt": "a", "pictures": [{"png": PNG, "right": True}]}],
    },
    "samples/answers_after.json": [
        {
            "question": "?",
            "kind": "k",
            "reference": "B",
            "png": PNG,
            "greedy": ANSWER,
            "sampled": ANSWER,
        }
    ],
    "metrics.jsonl": {"step": 1, "loss": 0.5, "time/step": 0.25},
}


def write_files(folder, files=None):
    """A small run, in which some files are others."""
    (folder / "samples").mkdir(exist_ok=True)
    for name, content in (FILES | (files or {})).items():
        end = "\n" if name.endswith("jsonl") else ""
        (folder / name).write_text(json.dumps(content) + end)
    return folder


@pytest.fixture
def without_charts(monkeypatch):
    """No charts, which take most of the time of a page."""
    monkeypatch.setattr(page.charts, "draw_charts", lambda rows: None)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", [], "config.json' must be a JSON object; got a list"),
        ("config.json", {"stage": 3}, "stage in .*config.json' must be a text; got 3"),
        ("config.json", FILES["config.json"] | {"alarms": None}, "alarms in .* got nothing"),
        ("config.json", FILES["config.json"] | {"steps": "9"}, "steps in .*; got '9'"),
        ("eval.json", {"before": []}, "before in .*eval.json' must be a JSON object; got a list"),
        ("eval.json", {"after": {"x": {"value": None}}}, "after.x.value in .* number; got None"),
        ("eval.json", {"guidance": "2"}, "guidance in .*eval.json' must be a number; got '2'"),
        ("eval.json", {"run": {"versions": ["1"]}}, "run.versions in .* object; got a list"),
        ("eval.json", {"run": {"date": 3}}, "run.date in .*eval.json' must be a text; got 3"),
        ("samples/gallery_after.json", {"guidance": 1, "prompts": [{"prompt": 1}]},
         r"prompts\[0\].prompt in .*gallery_after.json' must be a text; got 1"),
        ("samples/gallery_after.json", {"guidance": 1, "prompts": [{"prompt": "a", "pictures": [
            {"png": '">', "right": True}]}]}, "png in .*gallery_after.json' must be a PNG file in base64"),
        ("samples/answers_after.json", {"a": 1}, "questions in .* must be a list of objects"),
        ("samples/answers_after.json", [{"question": "?"}], r"questions\[0\].kind in .*; got nothing"),
        ("metrics.jsonl", {"step": "1"}, "step in line 1 of .*metrics.jsonl' .*; got '1'"),
        ("metrics.jsonl", 3, "line 1 of .*metrics.jsonl' must be a JSON object; got a number"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, without_charts, file, content, message):
    write_report(write_files(tmp_path))
    old = (tmp_path / "report.html").read_bytes()
    write_files(tmp_path, {file: content})
    assert re.search(message, text := refusal(write_report, tmp_path)), text
    assert (tmp_path / "report.html").read_bytes() == old


@pytest.mark.parametrize("file", FILES)
@SETTINGS
@given(variants(FILES) | VALUES)
def test_no_file_ends_in_a_traceback(tmp_path_factory, file, files):
    if isinstance(files, dict) and file in files:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(page.charts, "draw_charts", lambda rows: None)
            folder = write_files(tmp_path_factory.getbasetemp(), {file: files[file]})
            raises_at_most_a_user_error(render_page, folder)


@SETTINGS
@given(variants({"a": ESTIMATE, "b": ESTIMATE}))
def test_no_estimates_end_in_a_traceback(content):
    raises_at_most_a_user_error(lambda: read_estimates(JsonObject.check(content, "x")))


def test_numbers_of_any_size_are_drawn():
    rows = [{"step": step, "loss": value} for step, value in enumerate((1e308, -1e308, 1e-320))]
    drawn = charts.draw_charts([*rows, {"step": 2**62, "loss": float("nan")}])
    assert drawn and [chart.svg.count("<svg") for chart in drawn["main"] + drawn["more"]] == [1]


@pytest.mark.parametrize("name", [*FILES, "samples/step_000001_rollout.png", "samples"])
def test_links_are_not_followed_out_of_the_run(tmp_path, without_charts, name):
    folder = tmp_path / "run"
    folder.mkdir()
    write_files(folder)
    (tmp_path / "outside").mkdir()
    write_files(tmp_path / "outside")
    (tmp_path / "outside/samples/step_000001_rollout.png").write_bytes(b"secret")

    write_report(folder)
    path = folder / name
    if name == "samples":
        path.rename(tmp_path / "moved")
    path.unlink(missing_ok=True)
    path.symlink_to(tmp_path / "outside" / name)
    assert "got a link that leads out of that folder" in refusal(write_report, folder)
