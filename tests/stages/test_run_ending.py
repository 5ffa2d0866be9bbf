"""What every run leaves: a page, the history of its starts, a line, and nothing about the machine."""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
import sys

import pytest

from corl_jax.engine.hooks import Preempted, Preemption
from corl_jax.engine.run_history import read_history
from corl_jax.report import charts
from corl_jax.report.page import write_report
from corl_jax.stages.run import run


@pytest.fixture(autouse=True)
def without_charts(monkeypatch):
    """No charts, which take most of the time of a page."""
    monkeypatch.setattr(charts, "draw_charts", lambda rows: None)


def test_a_run_without_evaluation_leaves_a_page_and_a_line(
    small_config, small_world, tmp_path, capsys
):
    with small_world():
        run(small_config("tokenizer"), tmp_path / "w")
    page = (tmp_path / "w" / "report.html").read_text()
    assert "not recorded" not in page and "There are no completions yet." in page
    line = capsys.readouterr().err.splitlines()[-1]
    result = r"loss [\d.]+ -> [\d.]+, psnr [\d.]+ -> [\d.]+, codes_used \d+ -> \d+"
    pattern = rf"2 steps, (\d+ min )?\d+ s; {result}; report: {tmp_path}/w/report.html"
    assert re.fullmatch(pattern, line)


def contents(folder):
    """The bytes of all files of a run."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_stopped_and_resumed_run_has_both_starts(rl_config, small_world, tmp_path, monkeypatch):
    config = rl_config(**{"steps": 3})
    monkeypatch.setattr(sys, "argv", ["main", "--config=a.py", f"--workdir={tmp_path}/w"])
    with small_world():
        with monkeypatch.context() as patch:
            patch.setattr(Preemption, "requested", lambda self: True)
            with pytest.raises(Preempted):
                run(config, tmp_path / "w")
        stopped_page = (tmp_path / "w" / "report.html").read_text()
        (start,) = read_history(tmp_path / "w")
        assert (start.first_step, start.last_step) == (0, 1) and start.seconds > 0
        run(config, tmp_path / "w")

        # Once it is complete, the same command adds nothing.
        before = contents(tmp_path / "w")
        run(config, tmp_path / "w")
        assert contents(tmp_path / "w") == before

    starts = read_history(tmp_path / "w")
    assert [(it.first_step, it.last_step) for it in starts] == [(0, 1), (1, 3)]
    assert starts[0].command == "python -m corl_jax.main --config=a.py --workdir=.../w"
    assert starts[0].versions["jax"] and len(starts[0].commit.split(",")[0]) in (0, 40)
    page = (tmp_path / "w" / "report.html").read_text()
    assert "1 of 3" in stopped_page and "3 of 3" in page
    assert f"{starts[0].date}; {starts[1].date} from step 1" in page
    # Samples of the newest step, with the names of their rewards.
    assert (
        "<summary>Step 3</summary>" in page
        and "redness 0." in page
        and re.search(r"letters \d", page)
    )

    # The policy that it starts from lies in a folder of this machine.
    private = [socket.gethostname(), getpass.getuser(), os.getcwd(), str(tmp_path), "/tmp/"]
    texts = {
        "page": page.partition("</style>")[2],
        "run.json": (tmp_path / "w" / "run.json").read_text(),
    }
    texts |= {path.name: path.read_text() for path in (tmp_path / "w").glob("completions/*.jsonl")}
    for name, text in texts.items():
        words = [word for word in private if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text)]
        assert not words, name


def test_an_older_run_has_what_its_evaluation_recorded(tmp_path):
    config = {"stage": "rl", "seed": 0, "steps": 9, "init_from": "/models/J", "alarms": {
        "watch": [], "patience": 2, "dominant_share": 0.9, "diverging_probes": 3}}  # fmt: skip
    facts = {"command": "main --workdir=/home/me/w", "date": "2026-01-02", "machine": "m 1",
             "versions": {"jax": "0.9"}, "seconds": 90}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "eval.json").write_text(json.dumps({"run": facts}))
    page = write_report(tmp_path).read_text()
    for text in (
        "--workdir=.../w",
        "2026-01-02",
        "m 1",
        "jax 0.9",
        "1 min 30 s",
        "starts from .../J",
    ):
        assert text in page
    assert "/home/me" not in page
