"""Files of completions: what is written is read, few stay, and later steps are trained again."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import toy_stage
from PIL import Image

from corl_jax.core.errors import UserError
from corl_jax.engine.completions import (
    StepSample,
    describe_samples,
    read_completions,
    saved_steps,
    write_completions,
)
from corl_jax.engine.hooks import Report

PICTURE = np.arange(16 * 12 * 3, dtype=np.uint8).reshape(16, 12, 3)


def step_samples(step=1):
    """A picture, and two answers to a question about one."""
    drawn = StepSample("image", "r1", "a circle", 3, {"clip": 0.5}, 0.5, -1.25, pixels=PICTURE)
    answers = [
        StepSample(
            "text", "r2", "how many\u2028?", i, {"right": 1.0, "odd": math.nan}, math.inf, float(step),
            completion="<answer>\ntwo", reference_answer="two", is_truncated=i == 1,
            prompt_pixels=PICTURE_ASKED,
        )
        for i in range(2)
    ]  # fmt: skip
    return (drawn, *answers)


PICTURE_ASKED = np.full((2000, 1000, 3), 7, np.uint8)


def test_what_is_written_is_read(tmp_path):
    write_completions(tmp_path, 7, step_samples(), keep=3)
    drawn, first, second = read_completions(tmp_path, 7)
    assert (drawn.task, drawn.record_id, drawn.prompt, drawn.sample) == (
        "image",
        "r1",
        "a circle",
        3,
    )
    assert (drawn.rewards, drawn.reward, drawn.advantage) == ({"clip": 0.5}, 0.5, -1.25)
    assert np.array_equal(np.asarray(Image.open(drawn.image)), PICTURE)
    assert drawn.completion is None and drawn.prompt_image is None and not drawn.is_external

    assert first.completion == "<answer>\ntwo" and first.reference_answer == "two"
    assert (first.is_truncated, second.is_truncated) == (False, True)
    assert math.isnan(first.reward) and math.isnan(first.rewards["odd"])
    # One file of the picture that both answers are about, of bounded size.
    assert first.prompt_image == second.prompt_image and first.image is None
    assert Image.open(first.prompt_image).size == (256, 512)
    lines = (tmp_path / "completions" / "step_000007.jsonl").read_text().split("\n")
    assert json.loads(lines[1])["reward"] is None and lines[3:] == [""]
    assert json.loads(lines[0])["image"] == "step_000007_000.png"
    assert str(tmp_path) not in "".join(lines)


def test_a_real_picture_is_marked(tmp_path):
    drawn = dataclasses.replace(step_samples()[0], is_external=True)
    write_completions(tmp_path, 1, [drawn], keep=1)
    assert read_completions(tmp_path, 1)[0].is_external
    assert describe_samples([drawn]).startswith("image 3, the real picture: a circle")


def test_the_newest_steps_stay(tmp_path):
    for step in (1, 25, 50, 1_000_000):
        write_completions(tmp_path, step, step_samples(), keep=2)
    assert saved_steps(tmp_path) == [50, 1_000_000]
    assert len(list((tmp_path / "completions").iterdir())) == 2 * 3


class LogSamples:
    """A hook that reports the samples of every step."""

    def before_step(self, steps_done):
        pass

    def is_due(self, steps_done, is_last):
        return steps_done > 0

    def run(self, steps_done, state):
        return Report(samples=step_samples(steps_done))

    def close(self):
        pass


def test_a_resumed_run_writes_later_steps_again(tmp_path):
    """Killed after step 6, of which 4 are saved."""
    hooks = [LogSamples()]
    steps = toy_stage.start(tmp_path / "w", 9, hooks=hooks)
    assert [next(steps).step for _ in range(6)] == list(range(1, 7))
    steps.close()
    assert saved_steps(tmp_path / "w") == list(range(1, 7))

    steps = toy_stage.start(tmp_path / "w", 9, hooks=hooks)
    assert next(steps).step == 5
    assert saved_steps(tmp_path / "w") == list(range(1, 6))
    assert len(list(steps)) == 4
    assert saved_steps(tmp_path / "w") == list(range(2, 10))  # eight of them stay
    assert read_completions(tmp_path / "w", 6)[1].advantage == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"reward": "high"},
            "reward in line 1 of .*step_000001.jsonl' must be a number; got 'high'",
        ),
        ({"image": "../config.png"}, "image in line 1 .* the name of a PNG file beside it"),
        ({"image": 3}, "image in line 1 .* must be a text; got 3"),
        ({"rewards": [1]}, "rewards in line 1 .* must be a JSON object; got a list"),
    ],
)
def test_damaged_lines_are_named(tmp_path, change, message):
    write_completions(tmp_path, 1, step_samples(), keep=1)
    path = tmp_path / "completions" / "step_000001.jsonl"
    entry = json.loads(path.read_text().split("\n")[0])
    path.write_text(json.dumps(entry | change) + "\n")
    with pytest.raises(UserError, match=message):
        read_completions(tmp_path, 1)


def test_pictures_outside_of_the_run_are_not_read(tmp_path):
    (tmp_path / "run").mkdir()
    write_completions(tmp_path / "run", 1, step_samples()[:1], keep=1)
    picture = tmp_path / "run" / "completions" / "step_000001_000.png"
    picture.rename(tmp_path / "secret.png")
    picture.symlink_to(tmp_path / "secret.png")
    with pytest.raises(UserError, match="got a link that leads out of that folder"):
        read_completions(tmp_path / "run", 1)
