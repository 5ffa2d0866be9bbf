"""Scores of drawn pictures: those of the rewards, picture by picture, and the CLIP score."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from corl_jax.core.errors import UserError
from corl_jax.core.sharding import Sharder, make_mesh
from corl_jax.data.images import resize_image
from corl_jax.data.shapes.examples import example
from corl_jax.reward_models.collection import RewardModels
from corl_jax.rewards.config import REWARD_MODELS, RewardOptions
from corl_jax.suites.generation.picture_files import write_pictures
from corl_jax.suites.generation.prompts import GenerationPrompt
from corl_jax.suites.generation.scoring import score_pictures
from corl_jax.suites.generation.suite import generation_suites

MODELS = dict.fromkeys(REWARD_MODELS, "") | {"clip": "tiny"}


@pytest.fixture(scope="module")
def sharder():
    return Sharder(make_mesh({"data": 1}, jax.devices()[:1]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five prompts of DPG-Bench's layout: the first two of four pictures are right."""
    folder = tmp_path_factory.mktemp("scored")
    records = list({r.prompt: r for r in (example("test", i) for i in range(24))}.values())
    suite, prompts = generation_suites["dpg"], []
    for place in range(5):
        record, other = records[place], records[place + 5]
        prompt = GenerationPrompt(f"p{place}", record.prompt, "", {})
        images = np.stack([record.image, record.image, other.image, np.full_like(other.image, 238)])
        write_pictures(folder / "pictures", suite.layout, prompt, images)
        prompts.append(prompt)
    return folder, prompts


def test_every_picture_has_its_own_scores(folder, sharder):
    folder, prompts = folder
    names = ("shapes_strict", "clip_score", "clip")
    options = RewardOptions(models=MODELS)
    dpg = generation_suites["dpg"]
    records = score_pictures(dpg, prompts, folder, 4, 48, names, options, sharder, quiet=True)
    assert [record.id for record in records[:5]] == ["p0/0", "p0/1", "p0/2", "p0/3", "p1/0"]
    assert [record.scores["shapes_strict"] for record in records] == [1, 1, 0, 0] * 5
    assert records[0].picture == "pictures/p0.png" == records[3].picture

    # The reward is the same cosine between 0 and 1.
    for record in records:
        assert list(record.scores) == list(names)
        cosine = 2 * record.scores["clip"] - 1
        assert record.scores["clip_score"] == pytest.approx(100 * max(cosine, 0), abs=1e-3)
    models = RewardModels(MODELS, sharder)
    blank = resize_image(np.full((48, 48, 3), 238, np.uint8), (48, 48))
    cosine = models.clip.cosine(blank[None], [prompts[4].prompt])[0]
    assert records[19].scores["clip"] == pytest.approx((cosine + 1) / 2, abs=1e-5)


def test_bad_names_and_missing_models_are_one_line(folder, sharder):
    folder, prompts = folder
    dpg = generation_suites["dpg"]

    def score(*names, clip=""):
        options = RewardOptions(models=MODELS | {"clip": clip})
        score_pictures(dpg, prompts, folder, 4, 48, names, options, sharder, quiet=True)

    with pytest.raises(UserError, match="unknown reward 'shape'"):
        score("shape")
    with pytest.raises(UserError, match="models.clip must be a folder"):
        score("clip_score")
    with pytest.raises(UserError, match="got none"):
        score()
    # Captions of the embedded world alone can be scored by its parser.
    strange = [GenerationPrompt("p0", "a cow", "", {})]
    options = RewardOptions(models=MODELS)
    with pytest.raises(UserError, match="shapes_strict"):
        score_pictures(
            dpg, strange, folder, 4, 48, ("shapes_strict",), options, sharder, quiet=True
        )
