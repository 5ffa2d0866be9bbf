"""``run.json`` and ``completions/`` that were edited or damaged: a page, or one line."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hostile_json import SETTINGS, VALUES, raises_at_most_a_user_error, refusal, variants
from hypothesis import given
from PIL import Image

from corl_jax.report import charts
from corl_jax.report.page import render_page, write_report

CONFIG = {
    "stage": "rl",
    "seed": 0,
    "steps": 9,
    "init_from": "tiny",
    "alarms": {"watch": [], "patience": 2, "dominant_share": 0.9, "diverging_probes": 3},
}
EVIL = "<script>alert('x')</script>&\""
START = {
    "command": EVIL,
    "date": EVIL,
    "machine": EVIL,
    "processes": 2,
    "versions": {EVIL: EVIL},
    "commit": EVIL,
    "first_step": 0,
    "last_step": 9,
    "seconds": 90.0,
}
SAMPLE = {
    "step": 9,
    "task": "image",
    "record_id": EVIL,
    "prompt": EVIL,
    "sample": 0,
    "rewards": {EVIL: 0.5},
    "reward": 0.5,
    "advantage": -1.5,
    "image": "step_000009_000.png",
}
ANSWER = {name: value for name, value in SAMPLE.items() if name != "image"} | {
    "task": "text",
    "completion": f"<think> {EVIL}",
    "reference_answer": EVIL,
    "truncated": True,
    "prompt_image": "step_000009_000.png",
}


def write_run(folder, starts=(START,), samples=(SAMPLE, ANSWER)):
    """A run with these starts, and these samples of step 9."""
    (folder / "completions").mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "run.json").write_text(json.dumps({"starts": list(starts)}))
    lines = "".join(json.dumps(sample) + "\n" for sample in samples)
    (folder / "completions" / "step_000009.jsonl").write_text(lines)
    noise = np.random.default_rng(0).integers(0, 256, (500, 400, 3), np.uint8)
    Image.fromarray(noise).save(folder / "completions" / "step_000009_000.png", compress_level=1)
    return folder


def test_texts_are_escaped_and_pictures_small(tmp_path):
    page = write_report(write_run(tmp_path)).read_text()
    assert "<script" not in page and "alert(" in page
    assert "1 min 30 s, with evaluations" in page and "-1.5" in page and "(cut)" in page
    assert page.count("data:image/png") == 2 and len(page) < 2 * 4 / 3 * 160 * 128 * 3 + 30_000


def test_a_page_does_not_grow_with_the_run(tmp_path):
    """Three steps, two prompts of each task, eight samples of a prompt."""
    samples = [
        sample | {"record_id": f"r{group}", "sample": i, "prompt": "x" * 10_000}
        for sample in (SAMPLE, ANSWER)
        for group in range(5)
        for i in range(20)
    ]
    write_run(tmp_path, samples=samples)
    for step in range(1, 6):
        text = (tmp_path / "completions" / "step_000009.jsonl").read_text()
        (tmp_path / "completions" / f"step_{step:06d}.jsonl").write_text(text)
    page = write_report(tmp_path).read_text()
    assert re.findall(r"<summary>Step (\d+)", page) == ["9", "5", "4"]
    assert page.count('<figure class="pic">') == 3 * 2 * 8 and page.count("(cut)") == 3 * 2 * 8
    assert "x" * 2001 not in page


@pytest.mark.parametrize(
    ("start", "sample", "message"),
    [
        ({"seconds": "9"}, {}, r"starts\[0\].seconds in .*run.json' must be a number.*; got '9'"),
        ({"versions": []}, {}, r"starts\[0\].versions in .* object; got a list"),
        ({"processes": 0}, {}, r"starts\[0\].processes in .* of at least 1; got 0"),
        ({}, {"advantage": "1"}, "advantage in line 1 of .*step_000009.jsonl' .* number; got '1'"),
        ({}, {"image": "step_000009.jsonl"}, "image in line 1 .* PNG file beside it"),
        ({}, {"image": "none.png"}, "completions: image .*none.png. does not exist"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, start, sample, message):
    write_run(tmp_path, [START | start], [SAMPLE | sample])
    text = refusal(write_report, tmp_path)
    assert re.search(message, text), text


@SETTINGS
@given(variants({"start": START, "sample": SAMPLE, "answer": ANSWER}) | VALUES)
def test_no_file_ends_in_a_traceback(tmp_path_factory, content):
    if isinstance(content, dict) and {"start", "sample", "answer"} <= content.keys():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(charts, "draw_charts", lambda rows: None)
            folder = tmp_path_factory.getbasetemp()
            write_run(folder, [content["start"]], [content["sample"], content["answer"]])
            raises_at_most_a_user_error(render_page, folder)
