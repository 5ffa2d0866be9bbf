"""``corl score`` on real photographs, with random reward models."""

from __future__ import annotations

import json
import re
import sys

import pytest

from corl_jax.commands.cli import main
from corl_jax.rewards.base import rewards


@pytest.fixture
def photographs(test_data):
    return str(test_data("data/photos") / "records.jsonl")


def test_the_photographs_are_scored(photographs, tmp_path, capsys):
    out, models = tmp_path / "scores.json", ("captioner", "bert", "lpips", "clip")
    names = "cycle_both,perceptual,pixel,clip"
    how = ["--set", "captioner=blip", "--set", "similarity=bertscore"]
    flags = [flag for name in models for flag in ("--model", f"{name}=tiny")]
    assert (
        main(
            ["score", "--records", photographs, "--rewards", names, "--out", str(out), *flags, *how]
        )
        == 0
    )
    found = json.loads(out.read_text())
    assert len(found["rows"]) == 12 and "cycle_both" in capsys.readouterr().out
    for row in found["rows"]:  # pictures are compared with themselves
        assert row["perceptual"] == pytest.approx(1, abs=1e-5) and row["pixel"] == 1
        assert 0.5 <= row["cycle_both"] <= 1 and 0 <= row["clip"] <= 1
    assert len({row["clip"] for row in found["rows"]}) == 12


def test_a_users_own_reward_lies_where_the_command_is_called(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(rewards, "_items", dict(rewards._items))
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bright_rewards.py").write_text(
        "def brightness(completions, context):\n    return [c.pixels.mean() / 255 for c in completions]\n"
    )
    flags = ["--rewards", "bright_rewards:brightness", "--out", "bright.json"]
    assert main(["score", "--records", photographs, *flags]) == 0
    assert (
        0.1
        < json.loads((tmp_path / "bright.json").read_text())["rewards"]["brightness"]["mean"]
        < 0.9
    )


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--rewards", "beauty"], "unknown reward 'beauty'"),
        (["--rewards", "clip"], "set config.reward.models.clip"),
        (
            ["--rewards", "accuracy"],
            "reward 'accuracy' failed on row 0 .* the completion is a picture",
        ),
        (["--rewards", "matching"], "no policy was handed in"),
        (["--rewards", "pixel", "--answer"], "--answer needs a policy"),
        (
            ["--rewards", "cycle", "--set", "captioner=parrot"],
            "unknown captioner 'parrot'; expected one of blip, self",
        ),
        (["--rewards", "pixel", "--set", "colour=red"], "--set 'colour=red': unknown name"),
    ],
)
def test_what_it_refuses(photographs, tmp_path, capsys, more, says):
    assert main(["score", "--records", photographs, "--out", str(tmp_path / "x.json"), *more]) == 2
    assert re.search(says, capsys.readouterr().err)
