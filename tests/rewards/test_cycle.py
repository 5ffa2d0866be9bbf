"""Cycle consistency put together from names, closeness of pictures, rewards by self-reading, and a user's own."""

from __future__ import annotations

import dataclasses
import types

import numpy as np
import pytest

from corl_jax.core.errors import UserError
from corl_jax.core.types import Completion
from corl_jax.data.shapes.examples import example
from corl_jax.reward_models.collection import RewardModels
from corl_jax.rewards import base
from corl_jax.rewards.base import RewardContext, compute_rewards
from corl_jax.rewards.config import RewardSettings
from corl_jax.rewards.custom import register_custom
from corl_jax.rewards.image_distance import image_distances
from corl_jax.rewards.requirements import needed

NOTHING = RewardContext()


class Policy:
    """Says of a picture how red it is."""

    def answers(self, images, questions):
        return [
            f"{question} {image[..., 0].mean():.0f}"
            for image, question in zip(images, questions, strict=True)
        ]


FAKES = types.SimpleNamespace(
    captioner=types.SimpleNamespace(
        captions=lambda pictures: [f"picture {int(p[0, 0, 0])}" for p in pictures]
    ),
    bert=types.SimpleNamespace(f1=lambda a, b: np.array([len(x) / 10 for x in a])),
    sentence=types.SimpleNamespace(f1=lambda a, b: np.array([0.5 for _ in a])),
    clip=types.SimpleNamespace(cosine=lambda pictures, texts: np.array([0.5] * len(texts))),
    lpips=types.SimpleNamespace(
        distance=lambda pictures, reals: np.array([0.25 * i for i in range(len(reals))])
    ),
)


def drawn(*levels, **changes):
    """Pictures of one grey level for the same record."""
    record = dataclasses.replace(
        example("train", 0), image=np.full((8, 8, 3), 100, np.uint8), **changes
    )
    return [Completion(record, pixels=np.full((8, 8, 3), level, np.uint8)) for level in levels]


def values(name, completions, **settings):
    context = RewardContext(Policy(), FAKES, RewardSettings(**settings))
    return compute_rewards(completions, {name: 1.0}, context).matrix[:, 0]


def test_captioner_similarity_and_closeness_are_names():
    how = {"captioner": "blip", "similarity": "bertscore", "closeness": "lpips"}
    np.testing.assert_allclose(
        values("cycle", drawn(1, 22), **how), [0.9, 1.0]
    )  # "picture 1", "picture 22"
    np.testing.assert_allclose(values("cycle_both", drawn(1, 22), **how), [0.95, 0.875])
    np.testing.assert_allclose(
        values("cycle_both", drawn(1, 22), **how, normalise="none"), [1.9, 1.75]
    )
    by_itself = values(
        "cycle", drawn(1, prompt="describe"), captioner="self", similarity="soft_jaccard_embedding"
    )
    np.testing.assert_allclose(
        by_itself, [(1 / 10 + 0.5) / 2], rtol=1e-6
    )  # one of the ten words that it said
    np.testing.assert_allclose(values("perceptual", drawn(1, 2)), [1, 0.75])
    np.testing.assert_allclose(values("clip", drawn(1)), [0.75])
    np.testing.assert_allclose(values("clip", drawn(1), normalise="none"), [1.0])


@pytest.mark.parametrize(
    ("name", "value"), [("mse", 1 - 0.04), ("rmse", 0.8), ("psnr", 13.9794 / 50)]
)
def test_pixel_closeness_by_hand(name, value):
    np.testing.assert_allclose(
        values("pixel", drawn(151, 100), closeness=name), [value, 1], rtol=1e-5
    )


def test_structural_similarity(rng):
    real = rng.integers(0, 256, (1, 32, 32, 3)).astype(np.uint8)
    noisy = np.clip(real + rng.normal(0, 40, real.shape), 0, 255).astype(np.uint8)
    pictures = np.concatenate([real, noisy, 255 - real])
    same, close, opposite = image_distances["ssim"](pictures, np.repeat(real, 3, 0), NOTHING)
    assert same == pytest.approx(1) and 0.5 < close < 0.99 and opposite < 0.1


def test_the_policy_is_asked_about_its_own_pictures():
    right = drawn(7, 9, question="red?", answer="red? 7", qa_type="OE", choices=())
    np.testing.assert_array_equal(values("self_answer", right), [1, 0])
    with pytest.raises(
        UserError, match="reward 'self_classes' failed on row 0 .* has no class_question"
    ):
        values("self_classes", right)


def test_what_was_not_handed_in_is_named():
    for name, says in (
        ("self_answer", "no policy was handed in"),
        ("clip", "needs a reward model"),
    ):
        with pytest.raises(UserError, match=says):
            compute_rewards(drawn(1), {name: 1.0}, NOTHING)


def test_models_that_rewards_need():
    paper = RewardSettings(captioner="blip", similarity="bertscore", closeness="lpips")
    assert needed(["cycle_both", "matching"], paper) == {"captioner", "bert", "lpips"}
    assert needed(["cycle_both", "clip", "shapes_soft"], RewardSettings()) == {"clip"}
    with pytest.raises(
        UserError,
        match=r"needs the model 'bert'; set config.reward.models.bert .*bert-base-uncased",
    ):
        RewardModels({"bert": ""}, None).open(["bert"])
    with pytest.raises(UserError, match="'./nobody here' is no folder; .*bert-base-uncased"):
        RewardModels({"bert": "./nobody here"}, None).open(["bert"])
    with pytest.raises(UserError, match="reward.models has 'vgg', which no reward uses"):
        RewardSettings(models={"vgg": ""})


def test_a_users_own_reward(monkeypatch, tmp_path):
    monkeypatch.setattr(base.rewards, "_items", dict(base.rewards._items))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_rewards.py").write_text(
        "import numpy as np\n\n\ndef brightness(completions, context):\n"
        "    return np.array([c.pixels.mean() / 255 for c in completions])\n\n\nsize = 3\n"
    )
    register_custom(("my_rewards:brightness",))
    register_custom(("my_rewards:brightness",))  # the same one again
    np.testing.assert_allclose(
        compute_rewards(drawn(51, 255), {"brightness": 2.0}, NOTHING).total, [0.4, 2]
    )
    for name, says in (
        ("brightness", "expected module:function"),
        ("no_such_module:brightness", "cannot be imported"),
        ("my_rewards:size", "has no function 'size'"),
    ):
        with pytest.raises(UserError, match=says):
            register_custom((name,))
