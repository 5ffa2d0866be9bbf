"""Paths of users: what the system cannot have, may not write, or what leads elsewhere is one line."""

from __future__ import annotations

import os
import pathlib

import pytest
from hostile_json import SETTINGS, raises_at_most_a_user_error, refusal
from hypothesis import example, given
from hypothesis import strategies as st

from corl_jax.commands.cli import main
from corl_jax.core.checks import paths
from corl_jax.core.checks.paths import check_inside, check_writable, make_folder, user_path
from corl_jax.core.files import write_atomically


def test_paths_that_are_fine(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/a", "x") == tmp_path / "a"
    assert user_path("runs/new", "x") == pathlib.Path("runs/new")
    assert user_path(tmp_path / ("a" * 255), "x") == tmp_path / ("a" * 255)
    (tmp_path / "file").touch()
    assert user_path(tmp_path / "file" / "below", "x") == tmp_path / "file" / "below"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a" * 256, "x must have names of at most 255 bytes; got 256 bytes in 'aaaa"),
        ("new/" + "ü" * 128, "x must have names of at most 255 bytes; got 256 bytes"),
        ("/".join(["a" * 200] * 30), "x must be a path that can be opened; got 'aaa"),
        ("a\0b", "x must be a path that can be opened; got 'a\\x00b' ("),
        ("~nobody-of-that-name/a", "x must be a path that can be opened; got '~nobody"),
        ("\ud800", "x must be a path that can be opened; got '\\ud800'"),
    ],
)
def test_paths_that_no_system_can_have(text, message):
    assert message in refusal(user_path, text, "x")


def test_a_link_to_itself(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "must be a path that can be opened" in refusal(user_path, tmp_path / "loop", "x")
    assert "must be a file of its own" in refusal(check_inside, tmp_path / "loop", tmp_path)


@SETTINGS
@given(st.text(st.characters(), max_size=300) | st.binary(max_size=20).map(os.fsdecode))
@example("/" * 5000)
@example("../" * 3000)
def test_no_text_ends_in_a_traceback(text):
    path = raises_at_most_a_user_error(user_path, text, "x")
    if path is not None:
        path.exists(), path.is_dir()


def test_what_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    check_writable(tmp_path / "new" / "deep", "--out")
    check_writable(tmp_path / "file", "--out")
    text = refusal(check_writable, tmp_path / "file" / "below", "--out")
    assert "--out" in text and "file' is a file; expected a folder" in text
    assert "cannot be made (Not a directory)" in refusal(make_folder, tmp_path / "file/x", "--out")

    # Not by chmod, since root may write everywhere.
    monkeypatch.setattr(paths.os, "access", lambda path, mode: path != tmp_path)
    text = refusal(check_writable, tmp_path / "new", "--out")
    assert "cannot be written: there is no permission to write to" in text and str(tmp_path) in text


def test_links_that_lead_out(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "run" / "own").write_text("own")
    (tmp_path / "run" / "out").symlink_to(tmp_path / "secret")
    (tmp_path / "run" / "in").symlink_to(tmp_path / "run" / "own")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    check_inside(tmp_path / "run" / "own", tmp_path / "run")
    check_inside(tmp_path / "run" / "in", tmp_path / "run")
    # The folder itself may be a link.
    check_inside(tmp_path / "link" / "own", tmp_path / "link")
    text = refusal(check_inside, tmp_path / "run" / "out", tmp_path / "run")
    assert "got a link that leads out of that folder; put a copy there" in text

    # A leftover of an earlier write is not written through.
    (tmp_path / "run" / "report.html.part").symlink_to(tmp_path / "secret")
    write_atomically(tmp_path / "run" / "report.html", "new")
    assert (tmp_path / "secret").read_text() == "secret"
    assert (tmp_path / "run" / "report.html").read_text() == "new"


LONG = "a" * 300


@pytest.mark.parametrize(
    "line",
    [
        ["export", "--policy", LONG, "--out", "x"],
        ["export", "--policy", "tiny", "--out", LONG],
        ["export", "--policy", "tiny\0", "--out", "x"],
        ["inspect", "--policy", f"a/b/{LONG}"],
        ["report", "--workdir", LONG],
        ["report", "--workdir", "a\0b"],
        ["score", "--records", LONG, "--rewards", "format", "--out", "x"],
        ["sample", "--policy", "tiny", "--prompt", "a", "--out", "a\0b"],
        ["ask", "--policy", "tiny", "--image", LONG, "--question", "?"],
        ["evaluate", "--policy", "tiny", "--out", LONG],
        ["evaluate", "--policy", "tiny", "--out", "x", "--guidance-scale", "nan"],
        ["tokenize", "--policy", "tiny", "--codes", "a\0b", "--out", "x"],
        ["merge", "--base", "tiny", "--experts", "tiny", "--out", LONG],
        ["merge", "--base", "tiny", "--experts", "tiny", "--out", "x", "--weights", "inf"],
        ["study", "none", "--file", LONG],
    ],
)
def test_every_command_refuses_them_in_one_line(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(line) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and len(error) < 600
    assert not list(tmp_path.iterdir())
