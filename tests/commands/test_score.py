"""``corl score`` on real photographs, with random reward models."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pytest
from PIL import Image

from corl_jax.commands.cli import main
from corl_jax.data.shapes.captions import canonical_caption
from corl_jax.data.shapes.render import render
from corl_jax.data.shapes.scene import Scene, Shape
from corl_jax.rewards.base import rewards


@pytest.fixture
def photographs(test_data):
    """A file of records whose images are photographs."""
    return str(test_data("data/photos") / "records.jsonl")


def test_photographs_are_scored(photographs, tmp_path, capsys):
    out = tmp_path / "scores.json"
    line = ["score", "--records", photographs, "--out", str(out)]
    line += ["--rewards", "cycle_both,perceptual,pixel,clip"]
    for model in ("captioner", "bert", "lpips", "clip"):
        line += ["--model", f"{model}=tiny"]
    line += ["--set", "captioner=blip", "--set", "similarity=bertscore"]
    assert main(line) == 0

    values = json.loads(out.read_text())
    assert len(values["rows"]) == 12 and "cycle_both" in capsys.readouterr().out
    assert {"policy", "records", "machine", "versions"} <= set(values["about"])
    # Every image is compared with itself.
    for row in values["rows"]:
        assert row["perceptual"] == pytest.approx(1, abs=1e-5) and row["pixel"] == 1
        assert 0.5 <= row["cycle_both"] <= 1 and 0 <= row["clip"] <= 1
    assert len({row["clip"] for row in values["rows"]}) == 12


def test_pictures_of_any_size_without_a_policy(tmp_path, capsys):
    """Each keeps its size: the world's own pictures are read, beside those of 384 px."""
    scene = Scene((Shape(1, 1, "red", "circle", 0, 0),))
    caption = canonical_caption(scene)
    pictures = {"own.png": render(scene), "other.png": np.zeros((384, 384, 3), np.uint8)}
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(tmp_path / name)

    def score(reward, *names):
        rows = [{"prompt": caption, "image": "own.png", "picture": name} for name in names]
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        flags = ["--records", str(tmp_path / "rows.jsonl"), "--overwrite", "--rewards", reward]
        code = main(["score", *flags, "--out", str(tmp_path / "out.json")])
        return code or [
            row[reward] for row in json.loads((tmp_path / "out.json").read_text())["rows"]
        ]

    assert score("shapes_strict", "own.png") == [1]
    first, second, third = score("pixel", "own.png", "other.png", "own.png")
    assert first == third == 1 and 0 < second < 1
    assert score("shapes_strict", "other.png") == 2
    assert "uint8 [N, 48, 48, 3]; got uint8 [1, 384, 384, 3]" in capsys.readouterr().err


def test_a_custom_reward_is_imported_from_the_current_folder(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(rewards, "_entries", dict(rewards._entries))
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bright_rewards.py").write_text(
        "def brightness(completions, context):\n"
        "    return [completion.pixels.mean() / 255 for completion in completions]\n"
    )
    flags = ["--rewards", "bright_rewards:brightness", "--out", "bright.json"]
    assert main(["score", "--records", photographs, *flags]) == 0

    statistics = json.loads((tmp_path / "bright.json").read_text())["rewards"]
    assert 0.1 < statistics["brightness"]["mean"] < 0.9


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rewards", "beauty"], "unknown reward 'beauty'"),
        (
            ["--rewards", "clip"],
            "config.rewards.options.models.clip must be a folder or a hub id, since a reward needs",
        ),
        (
            ["--rewards", "accuracy"],
            "reward 'accuracy' failed on row 0 .* the completion is an image",
        ),
        (["--rewards", "matching"], "needs a policy, but none was passed"),
        (["--rewards", "pixel", "--answer"], "--answer needs a policy"),
        (
            ["--rewards", "cycle", "--set", "captioner=parrot"],
            "--set captioner must be one of shapes_parser, blip, self; got 'parrot'",
        ),
        (
            ["--rewards", "pixel", "--set", "colour=red"],
            "--set must name one of captioner, .*; got 'colour=red'",
        ),
        (["--rewards", "pixel", "--model", "clip"], "--model must be NAME=VALUE; got 'clip'"),
    ],
)
def test_bad_input(photographs, tmp_path, capsys, flags, message):
    out = str(tmp_path / "x.json")
    assert main(["score", "--records", photographs, "--out", out, *flags]) == 2
    assert re.search(message, capsys.readouterr().err)
