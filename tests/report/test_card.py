"""The card: what it says about a run, that nothing in it is private, and that values stay values."""

from __future__ import annotations

import dataclasses
import html.parser
import io
import json
import math
import re
import shutil

import grain
import huggingface_hub
import jax.numpy as jnp
import markdown_it
import numpy as np
import pytest
from local_hub import local_hub
from packaging.version import Version
from PIL import Image

from corl_jax import Policy
from corl_jax.commands.cli import main
from corl_jax.core.private_text import find_private, reduce_private, reduce_values
from corl_jax.data.shapes.vocabulary import write_tokenizer
from corl_jax.engine.checkpoints.checkpoint import Checkpointer
from corl_jax.engine.checkpoints.manifest import RunIdentity
from corl_jax.engine.optim import OptimConfig, make_optimizer
from corl_jax.engine.state import create_state
from corl_jax.evals.gallery import png_base64
from corl_jax.porting.policy_source import config_to_json, open_policy_source
from corl_jax.report.card.facts import CardFacts, Measure, RunFacts, SuiteFacts
from corl_jax.report.card.markdown import code, escape
from corl_jax.report.card.recipe import data_of, datasets_of, start_of
from corl_jax.report.card.render import render_card
from corl_jax.suites.results import SuiteRecord, write_results

EVIL = "a | b ` ``` <script>alert(1)</script> [x](javascript:y) **c** $d$ # e\n\n---\n- f {{ 7*7 }}"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def base(dot_policy_folder):
    return Policy.load(dot_policy_folder, dtype="float32")


def estimate(value, stderr=0.02):
    return {"value": value, "stderr": stderr, "n": 512}


@pytest.fixture(scope="module")
def workdir(base, small_config, tmp_path_factory):
    """A finished run whose config and command name folders, hosts and people."""
    folder = tmp_path_factory.mktemp("card") / "run"
    write_tokenizer(folder / "tokenizer")
    inputs = {
        "init_from": [{"revision": COMMIT}],
        "records": {"count": 22123, "digest": "x"},
    }
    identity = RunIdentity("rl", config_to_json(base.cfg), {}, inputs)
    params = {path: jnp.asarray(leaf) for path, leaf in base.params.items()}
    state = create_state(params, {}, make_optimizer(OptimConfig(1e-3, 2)))
    checkpointer = Checkpointer(folder / "checkpoints", identity)
    checkpointer.save(40, state, iter(grain.MapDataset.range(4).to_iter_dataset()))
    checkpointer.close()

    config = small_config("unified", policy="deepseek-community/Janus-Pro-1B", steps=40)
    config["data"] |= {"source": "x2x_rft_22k", "held_out": 0.01, "cache_dir": "/home/bob/cache"}
    config["rewards"]["options"]["custom"] = ["/home/bob/my rewards/mine.py"]
    (folder / "config.json").write_text(json.dumps(config))
    start = {
        "command": "python -m corl_jax.main --workdir=/home/bob/runs/x --config.seed=0",
        "date": "2026-11-27 12:30 UTC",
        "machine": "Linux x86_64, 2 CPU cores, 1 x cpu",
        "commit": COMMIT,
        "processes": 1,
        "versions": {"jax": "0.10.2"},
        "first_step": 0,
        "last_step": 20,
        "seconds": 60.0,
    }
    starts = [start, start | {"first_step": 20, "last_step": 40}]
    (folder / "run.json").write_text(json.dumps({"starts": starts}))

    evals = {
        "before": {"qa_greedy": estimate(0.30), "reward/text": estimate(1.1)},
        "after": {"qa_greedy": estimate(0.50), "reward/text": estimate(1.15, None)},
        "guidance": 2.0,
    }
    (folder / "eval.json").write_text(json.dumps(evals))
    rows = [
        {"step": step, "image/reward": math.sin(step), "text/kl": step} for step in range(1, 41)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    (folder / "samples").mkdir()
    pictures = [
        {"png": png_base64(np.full((16, 16, 3), level, np.uint8)), "right": level > 100}
        for level in (60, 200)
    ]
    prompts = [{"id": "1", "prompt": EVIL, "pictures": pictures}]
    for side in ("before", "after"):
        gallery = {"guidance": 2.0, "prompts": prompts}
        (folder / "samples" / f"gallery_{side}.json").write_text(json.dumps(gallery))
    return folder


@pytest.fixture(scope="module")
def exported(workdir):
    """The folder of an export of the run."""
    out = workdir.parent / "out"
    assert main(["export", "--policy", str(workdir), "--out", str(out), "--license", "mit"]) == 0
    return out


def render_html(text):
    """The card as the hub shows it, without its head."""
    body = text.split("---\n", 2)[2]
    return markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").render(body)


class Cells(html.parser.HTMLParser):
    """The texts of tables, row by row, and all tags of a page."""

    def __init__(self, page):
        super().__init__()
        self.rows, self.tags, self.in_cell = [], set(), False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self.in_cell:
            self.rows[-1][-1] += data


def test_what_it_says_about_a_run(exported):
    text = (exported / "README.md").read_text("utf-8")
    page = Cells(render_html(text))
    cells = {row[0]: row[1:] for row in page.rows if row}
    assert cells["command"] == [
        ".../x --config.seed=0".join(["python -m corl_jax.main --workdir=", ""])
    ]
    assert cells["commit"] == [COMMIT] and cells["steps done"] == ["40"]
    assert cells["times started"] == ["2"]
    assert cells["source"] == ["x2x_rft_22k"] and cells["records of the sources"] == ["22,123"]
    assert cells["held out from training"] == ["1 % of the records"]
    assert cells["steps"] == ["40"] and cells["rewards.text"] == ["accuracy 1, format 1"]

    # 0.2 ± 1.96 * sqrt(2) * 0.02; a mean without a standard error has a change without an interval.
    before, after, change, records = cells["right, greedy (qa_greedy)"]
    assert (before, after, records) == ("30.0 ± 2.0 %", "50.0 ± 2.0 %", "512")
    assert change == "+20.0 points [+14.5, +25.5]"
    assert cells["total, sampled (reward/text)"] == ["1.100 ± 0.020", "1.150", "+0.050", "512"]
    assert f"deepseek-community/Janus-Pro-1B of the Hugging Face hub, commit {COMMIT[:12]}" in text
    assert "guidance_scale=2.0" in text and "guidance=2.0" in text


def test_the_head_says_what_the_policy_is(exported):
    card = huggingface_hub.ModelCard.load(exported / "README.md")
    assert card.data.license == "mit" and card.data.library_name == "transformers"
    assert card.data.base_model == "deepseek-community/Janus-Pro-1B"
    assert card.data.base_model_relation == "finetune"
    assert card.data.datasets == ["mm-vl/x2x_rft_22k"] and card.data.pipeline_tag == "any-to-any"
    assert {"text-to-image", "image-text-to-text"} <= set(card.data.tags)


@pytest.mark.skipif(
    Version(huggingface_hub.__version__) < Version("2"),
    reason="earlier releases ask huggingface.co whatever address they are given",
)
def test_the_head_is_one_that_the_hub_accepts(exported, monkeypatch, tmp_path):
    card = huggingface_hub.ModelCard.load(exported / "README.md")
    with local_hub(monkeypatch, tmp_path):
        card.validate()
        card.data.license = "no such licence"
        with pytest.raises(ValueError, match="license"):
            huggingface_hub.ModelCard(str(card)).validate()


def test_its_pictures(exported):
    curves, samples = (
        Image.open(io.BytesIO((exported / "card" / name).read_bytes()))
        for name in ("curves.png", "samples.png")
    )
    assert curves.width > 600 and len(curves.convert("L").getcolors(256)) > 20
    # Two sides of two pictures in one row; the second of each is right and has a green frame.
    pixels = np.asarray(samples.convert("RGB")).astype(int)
    green = (pixels[..., 1] > 140) & (pixels[..., 0] < 60)
    columns = np.flatnonzero(green.any(0))
    assert len(np.flatnonzero(np.diff(columns) > 1)) == 1
    assert sum(path.stat().st_size for path in (exported / "card").iterdir()) < 300_000


def test_nothing_private_is_in_it(exported):
    for path in exported.rglob("*"):
        if path.suffix in (".md", ".json", ".jinja"):
            text = path.read_text("utf-8")
            assert find_private(text, names=("bob",)) is None, path.name
            assert str(exported.parent) not in text


def hostile(layout="transformers"):
    """Facts with hostile text wherever text can be."""
    pairs, measure = ((EVIL, EVIL),), Measure(EVIL, EVIL, EVIL, EVIL, EVIL, 3)
    run = RunFacts(
        EVIL, EVIL, pairs, pairs, (("command", EVIL),), ("a/b",), json.dumps(EVIL), (measure,),
        EVIL, (EVIL,), True, None,
    )  # fmt: skip
    suites = (SuiteFacts(EVIL, pairs, (measure,)),)
    return CardFacts(EVIL, layout, "", "", EVIL, 1, 16, 4, "float32", run, suites, "0.1")


@pytest.mark.parametrize("layout", ["transformers", "original", "adapters"])
def test_values_stay_values(layout):
    text = render_card(hostile(layout))
    page = Cells(render_html(text))
    allowed = "h1 h2 h3 p table thead tbody tr th td code pre strong img details summary ol li"
    assert page.tags <= set(allowed.split())
    widths = {len(row) for row in page.rows}
    assert widths == {2, 3, 5}
    shown = " ".join(EVIL.split())
    assert [shown, shown] in page.rows and ["command", shown] in page.rows
    assert [f"{shown} ({shown})", shown, shown, shown, "3"] in page.rows
    assert "49" not in text
    assert huggingface_hub.ModelCard(text).data.license == "unknown"


@pytest.mark.parametrize(
    "text",
    ["", "a`b", "`", "``` x", "a|b", "\\", "- x", "1. x", "+", "=", "ä ü", "http://x.y", "a_b_c"],
)
def test_escaped_text_and_code_read_as_they_were(text):
    for written in (escape(text), code(text)):
        table = f"| a | b |\n|---|---|\n| {written} | z |\n"
        cells = Cells(render_html(f"---\n---\n{table}")).rows[1]
        assert cells == [text, "z"]
    (line,) = re.findall("<p>(.*)</p>", render_html(f"---\n---\n{escape(text)}\n")) or [""]
    assert "<" not in line


def test_a_policy_without_a_run_has_a_short_card(dot_policy_folder, tmp_path):
    flags = ["--policy", str(dot_policy_folder), "--out", str(tmp_path / "out")]
    assert main(["export", *flags, "--layout", "original"]) == 0
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    head = huggingface_hub.ModelCard(text).data
    assert head.library_name == "corl_jax" and head.base_model is None
    assert "license: unknown  # to be filled in" in text and "To be filled in" in text
    assert "## Training" not in text and not (tmp_path / "out" / "card").exists()

    flags[-1] += "_without"
    assert main(["export", *flags, "--no-card"]) == 0
    assert not (tmp_path / "out_without" / "README.md").exists()


def test_results_of_suites_and_of_another_policy(dot_policy_folder, tmp_path, capsys):
    results = tmp_path / "results"
    results.mkdir()
    identity = open_policy_source(str(dot_policy_folder)).identity()
    record = SuiteRecord("1", "1", "", "q", "a", "a", "", {"right": 1.0})
    about = {"suite": "pope", "policy": "/home/bob/p", "identity": identity, "seed": 3}
    write_results(results, about, {"accuracy": estimate(0.83)}, [record])
    flags = ["--policy", str(dot_policy_folder), "--results", str(results), "--out"]
    assert main(["export", *flags, str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert ["accuracy", "83.0 ± 2.0 %", "512"] in Cells(render_html(text)).rows
    assert "## Benchmark pope" in text and "bob" not in text

    write_results(results, about | {"identity": {"digest": "0"}}, {}, [record])
    assert main(["export", *flags, str(tmp_path / "other")]) == 2
    assert "must have measured the policy" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_damaged_run_is_refused_before_anything_is_written(workdir, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(workdir, run)
    (run / "eval.json").write_text('{"before": {"qa_greedy": 3}}')
    flags = ["--policy", str(run), "--out", str(tmp_path / "out")]
    assert main(["export", *flags]) == 2
    assert "eval.json" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert main(["export", *flags, "--no-card"]) == 0


@pytest.mark.parametrize(
    ("init_from", "inputs", "expected"),
    [
        ("", [], ""),
        ("tiny", [{"digest": "1"}], "tiny"),
        ("a/b", [{"revision": COMMIT}], "a/b"),
        # A work directory of that name.
        ("runs/sft", [{"step": 3, "digest": "1"}], ""),
        ("image_tokenizer/*=a/b,/home/bob/x", [{"revision": COMMIT}, {"digest": "1"}], ""),
    ],
)
def test_what_a_run_started_from(init_from, inputs, expected):
    name, phrase = start_of({"init_from": init_from}, {"init_from": inputs})
    assert name == expected and "bob" not in phrase


def test_data_sets_by_their_address():
    mixture = {
        "own": {"source": "/data/bob/own"},
        "hub": {"source": "hub:x/y/default@main"},
        "preset": {"source": "geoqa"},
        "files": {"source": "geoqa:/data/bob/geo"},
    }
    config = {"data": {"source": "shapes", "mixture": mixture, "held_out": 0.0}}
    assert datasets_of(config) == ("x/y", "leonardPKU/GEOQA_R1V_Train_8K")
    text = str(data_of(config, None))
    assert "/data" not in text and "geoqa:.../geo" in text and ".../own" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "--workdir=/home/bob/runs/x --config.init_from=tiny",
            "--workdir=.../x --config.init_from=tiny",
        ),
        ("x2x_rft_22k:/data/secret/x2x", "x2x_rft_22k:.../x2x"),
        ("image_tokenizer/*=/models/a,runs/b", "image_tokenizer/*=.../a,runs/b"),
        ("gs://bucket/a/run", "gs://.../run"),
        ("https://me:pw@host/x.json?key=1", "https://.../x.json"),
        ("https://me:pw@host", "https://..."),
        ("../../bob/x ~/y ~bob/z", ".../x .../y .../z"),
        ("</answer> */reward and/or 1/2 hub:a/b", "</answer> */reward and/or 1/2 hub:a/b"),
        ("https://huggingface.co/a/b", "https://huggingface.co/a/b"),
    ],
)
def test_paths_are_reduced(text, expected):
    assert reduce_private(text) == expected


def test_texts_of_a_config_are_reduced():
    config = {"a": ["/x/y", 1, None], "b": {"c": "pattern=/x/y,/z/w", "d": "/home/bob/my folder/z"}}
    reduced = {"a": [".../y", 1, None], "b": {"c": "pattern=.../y,.../w", "d": ".../z"}}
    assert reduce_values(config) == reduced


def test_facts_are_frozen():
    assert all(
        dataclasses.fields(kind) and kind.__dataclass_params__.frozen
        for kind in (CardFacts, RunFacts, SuiteFacts, Measure)
    )
