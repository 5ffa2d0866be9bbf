"""Progress on stderr: a bar on a terminal, lines in a log, and time that goes on by itself."""

from __future__ import annotations

import io
import sys
import time

import pytest

from corl_jax.core import progress
from corl_jax.core.progress import ProgressBar, format_seconds
from corl_jax.engine.training_progress import TrainingProgress


class Terminal(io.StringIO):
    """What a terminal is written."""

    def isatty(self):
        return True


@pytest.fixture
def quick(monkeypatch):
    """A look of the thread every hundredth of a second, a line every tenth."""
    monkeypatch.setattr(progress, "REFRESH_SECONDS", 0.01)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.1)


def test_a_log_has_whole_lines(capsys):
    bar = TrainingProgress(4, 2, ("image/reward", "text/reward", "absent"), "seed0: image + text")
    bar.show_status("compiling the first step")
    bar.print_line("hello")
    bar.write(3, {"image/reward": 0.5, "text/reward": 1})
    bar.write(4, {"image/reward": 0.25, "text/reward": 2})
    bar.close()
    stdout, stderr = capsys.readouterr()
    assert stdout == "" and stderr.isascii() and "\r" not in stderr
    assert stderr.splitlines() == [
        "seed0: image + text: 2/4 steps, 0 s, compiling the first step",
        "hello",
        "seed0: image + text: 3/4 steps, 0 s, image/reward=0.5 text/reward=1",
        "seed0: image + text: 4/4 steps, 0 s, image/reward=0.25 text/reward=2",
    ]


def test_most_steps_of_a_log_have_no_line(capsys):
    with ProgressBar(1000, label="run", unit="step") as bar:
        for _ in range(1000):
            bar.update()
    assert [line.split(",")[0] for line in capsys.readouterr().err.splitlines()] == [
        "run: 1000/1000 steps"
    ]


def test_time_goes_on_while_nothing_else_does(capsys, monkeypatch, quick):
    with ProgressBar(2, label="run", unit="step") as bar:
        bar.show_status("compiling")
        time.sleep(0.5)
    assert 3 <= capsys.readouterr().err.count("compiling") <= 6

    monkeypatch.setattr(sys, "stderr", Terminal())
    with ProgressBar(2, label="run", unit="step") as bar:
        bar.show_status("compiling")
        time.sleep(1.3)
        bar.update(1, "loss=1")
        bar.print_line("a line above")
    text = sys.stderr.getvalue()
    assert text.isascii() and "[00:00, compiling]" in text and "[00:01, compiling]" in text
    assert "\ra line above\n" in text.replace(" " * 8, "") or "a line above\n" in text
    assert "1/2" in text and "loss=1" in text


def test_what_is_short_or_quiet_says_nothing(capsys):
    for options in ({"quiet": True}, {"delay": 5.0}):
        with ProgressBar(2, label="run", unit="step", **options) as bar:
            bar.show_status("compiling")
            bar.update(2)
    assert capsys.readouterr() == ("", "")


def test_seconds_as_text():
    assert [format_seconds(s) for s in (0.4, 59.4, 60, 3725)] == [
        "0 s", "59 s", "1 min 00 s", "62 min 05 s"]  # fmt: skip
