"""The report: complete and partial work directories, no network, and everything is escaped."""

from __future__ import annotations

import html.parser
import json
import re

import numpy as np
import pytest
from made_report import ALARM, EVIL, estimate, write_run
from PIL import Image

from corl_jax.core.errors import UserError
from corl_jax.evals.gallery import png_base64
from corl_jax.report import charts
from corl_jax.report.page import write_report


@pytest.fixture
def workdir(tmp_path):
    """A finished run, with hostile text wherever text can be."""
    return write_run(tmp_path)


class Tags(html.parser.HTMLParser):
    """Collects the tags of a page and checks that they nest."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in ("meta", "img", "br", "path", "use"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("path", "use"):
            assert self.open.pop() == tag


def test_complete_report_is_safe_and_self_contained(workdir):
    page = write_report(workdir).read_text()
    tags = Tags(page).tags
    assert "script" not in tags and "link" not in tags and "alert('x')</script>" not in page
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert "url(http" not in page and "@import" not in page
    assert tags.count("img") == 2 + 1 + 1 + 3
    sheet = page[page.index("step 30: rollout") :]
    assert sheet.count('<p class="words small">') == 2 and ">0.25</div>" in sheet
    assert "step 25: rollout</figcaption>\n<img" in page
    assert "no evaluation yet" not in page and "1 min 30 s" in page
    assert page.count("<svg") == 3


def test_stages_of_a_pipeline_are_named_without_their_folder(workdir):
    config = json.loads((workdir / "config.json").read_text())
    config["init_from"] = f"{workdir.parent}/base"
    (workdir / "config.json").write_text(json.dumps(config))
    page = write_report(workdir).read_text()
    assert str(workdir.parent) not in page and "starts from base" in page


def test_changes_beyond_two_standard_errors_are_marked(workdir):
    page = write_report(workdir).read_text()
    assert '<span class="pill up">+20.0</span>' in page
    assert '<span class="pill ">+3.0</span>' in page
    assert "its best guidance 1.5" in page and '<span class="pill up">+9.0</span>' in page


def test_a_run_that_has_just_begun_has_a_report_too(tmp_path):
    config = {"stage": "sft", "seed": 0, "steps": 9, "init_from": "", "alarms": ALARM}
    (tmp_path / "config.json").write_text(json.dumps(config))
    page = write_report(tmp_path).read_text()
    for missing in ("evaluation", "gallery", "transcript", "metrics", "sheet of samples"):
        assert re.search(f"There (is|are) no {missing}", page)

    # An evaluation of one record, which has no standard error.
    evals = {"before": {"qa_greedy": {"value": 1.0, "stderr": None, "n": 1}}}
    (tmp_path / "eval.json").write_text(json.dumps(evals))
    page = write_report(tmp_path).read_text()
    assert "100.0 %" in page and "no evaluation yet" not in page


def test_damaged_files_leave_the_old_report(workdir):
    old = write_report(workdir).read_bytes()
    (workdir / "eval.json").write_text('{"before": {"qa_greedy": 3}, "after": {}}')
    with pytest.raises(
        UserError, match="before.qa_greedy in .*eval.json' must be a JSON object; got a number"
    ):
        write_report(workdir)
    (workdir / "eval.json").write_text("{")
    with pytest.raises(UserError, match="eval.json"):
        write_report(workdir)
    (workdir / "eval.json").unlink()
    (workdir / "metrics.jsonl").write_text('{"step"\n{"step": 1}\n')
    with pytest.raises(UserError, match="line 1"):
        write_report(workdir)
    assert (workdir / "report.html").read_bytes() == old


def test_every_column_is_in_one_panel():
    columns = [
        "image/reward",
        "text/reward",
        "image/reward/cycle",
        "text/kl",
        "time/step",
        "odd",
        "alarms",
        "step",
    ]
    main, more = charts.make_panels(columns)
    in_panels = [column for panel in main + more for column in panel.columns]
    assert sorted(in_panels) == sorted(set(columns) - {"alarms", "step"})
    assert [panel.title for panel in more] == ["Time per step", "odd"]


def test_moving_mean_keeps_a_straight_line():
    line = np.arange(10.0)
    np.testing.assert_allclose(charts.moving_mean(line, 3)[1:-1], line[1:-1])
    np.testing.assert_allclose(charts.moving_mean(line, 1), line)


def test_rewards_are_numbers_and_pictures_have_theirs_in_place_of_ticks(workdir):
    """Rewards may be any numbers: no per cent, no place on a line from 0 to 1."""
    values = {"reward/image@w=5": (-1.25, 2.5), "reward/image/clip@w=5": (0.2, 0.21)}
    values |= {"reward/text": (1.2, 1.1), "reward/text/format@greedy": (0.5, 0.5)}
    evals = {
        side: {name: estimate(pair[i]) for name, pair in values.items()}
        for i, side in enumerate(("before", "after"))
    }
    evals["after"]["reward/text/format@greedy"]["stderr"] = None
    (workdir / "eval.json").write_text(json.dumps(evals | {"guidance": 5.0}))
    png = png_base64(np.zeros((4, 4, 3), np.uint8))
    for side, reward in (("before", -0.5), ("after", 12.345)):
        pictures = [{"png": png, "reward": reward}]
        prompts = [{"id": "1", "prompt": EVIL, "pictures": pictures}]
        path = workdir / "samples" / f"gallery_{side}.json"
        path.write_text(json.dumps({"guidance": 5.0, "prompts": prompts}))

    page = write_report(workdir).read_text()
    assert not Tags(page).open
    evaluation, _, samples = page.partition("<h2>What it draws</h2>")
    assert " %" not in evaluation and 'class="span"' not in evaluation
    assert re.search(r">-1.250 →</span>\s+<span class=\"now\">2.500</span>", evaluation)
    assert '<span class="pill up">+3.750</span>' in evaluation
    assert '<span class="pill down">-0.100</span>' in evaluation
    assert "clip, guidance 5" in evaluation and "format, greedy" in evaluation
    names = [name for name in values if evaluation.index(f"<code>{name}</code>")]
    assert sorted(names, key=lambda name: evaluation.index(f"<code>{name}</code>")) == list(values)
    assert "total reward" in samples and ">-0.50<" in samples and ">12.35<" in samples
    assert 'class="pic right"' not in samples

    path.write_text(json.dumps({"guidance": 5.0, "prompts": [{"prompt": "a", "pictures": [
        {"png": png, "reward": "high"}]}]}))  # fmt: skip
    with pytest.raises(UserError, match="reward in .* must be a number; got 'high'"):
        write_report(workdir)


def test_large_pictures_are_scaled_down():
    import base64
    import io

    data = base64.b64decode(png_base64(np.zeros((900, 300, 3), np.uint8)))
    assert Image.open(io.BytesIO(data)).size == (85, 256)
