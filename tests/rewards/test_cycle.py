"""Cycle consistency by options, image distances, self-VQA rewards, and a user's custom reward."""

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
from corl_jax.rewards.config import RewardOptions
from corl_jax.rewards.custom import register_custom
from corl_jax.rewards.image_distance import image_distances
from corl_jax.rewards.requirements import required_models

EMPTY_CONTEXT = RewardContext()


class Policy:
    """A policy handle that answers with the question and the mean red value of the image."""

    def answers(self, images, questions):
        return [
            f"{question} {image[..., 0].mean():.0f}"
            for image, question in zip(images, questions, strict=True)
        ]


FAKES = types.SimpleNamespace(
    captioner=types.SimpleNamespace(
        captions=lambda images: [f"picture {int(image[0, 0, 0])}" for image in images]
    ),
    bert=types.SimpleNamespace(f1=lambda a, b: np.array([len(x) / 10 for x in a])),
    sentence=types.SimpleNamespace(f1=lambda a, b: np.array([0.5 for _ in a])),
    clip=types.SimpleNamespace(cosine=lambda images, texts: np.array([0.5] * len(texts))),
    lpips=types.SimpleNamespace(
        distance=lambda images, real_images: np.array([0.25 * i for i in range(len(real_images))])
    ),
)


def grey_images(*levels, **changes):
    """Completions whose images have one grey level each, for the same record."""
    record = dataclasses.replace(
        example("train", 0), image=np.full((8, 8, 3), 100, np.uint8), **changes
    )
    return [Completion(record, pixels=np.full((8, 8, 3), level, np.uint8)) for level in levels]


def values(name, completions, **settings):
    context = RewardContext(Policy(), FAKES, RewardOptions(**settings))
    return compute_rewards(completions, {name: 1.0}, context).matrix[:, 0]


def test_captioner_similarity_and_image_distance_are_chosen_by_name():
    options = {"captioner": "blip", "similarity": "bertscore", "image_distance": "lpips"}
    images = grey_images(1, 22)
    # The fake BERT counts letters: "picture 1" has 9, "picture 22" has 10.
    np.testing.assert_allclose(values("cycle", images, **options), [0.9, 1.0])
    np.testing.assert_allclose(values("cycle_both", images, **options), [0.95, 0.875])
    np.testing.assert_allclose(
        values("cycle_both", images, **options, normalization="none"), [1.9, 1.75]
    )

    self_captioned = values(
        "cycle",
        grey_images(1, prompt="describe"),
        captioner="self",
        similarity="soft_jaccard_embedding",
    )
    # The prompt is one of the ten words of the caption.
    np.testing.assert_allclose(self_captioned, [(1 / 10 + 0.5) / 2], rtol=1e-6)

    np.testing.assert_allclose(values("perceptual", grey_images(1, 2)), [1, 0.75])
    np.testing.assert_allclose(values("clip", grey_images(1)), [0.75])
    np.testing.assert_allclose(values("clip", grey_images(1), normalization="none"), [1.0])


@pytest.mark.parametrize(
    ("name", "value"), [("mse", 1 - 0.04), ("rmse", 0.8), ("psnr", 13.9794 / 50)]
)
def test_pixel_by_hand(name, value):
    np.testing.assert_allclose(
        values("pixel", grey_images(151, 100), image_distance=name), [value, 1], rtol=1e-5
    )


def test_structural_similarity(rng):
    real_image = rng.integers(0, 256, (1, 32, 32, 3)).astype(np.uint8)
    noisy = np.clip(real_image + rng.normal(0, 40, real_image.shape), 0, 255).astype(np.uint8)
    images = np.concatenate([real_image, noisy, 255 - real_image])
    same, close, opposite = image_distances["ssim"](
        images, np.repeat(real_image, 3, 0), EMPTY_CONTEXT
    )
    assert same == pytest.approx(1) and 0.5 < close < 0.99 and opposite < 0.1


def test_self_vqa_scores_the_policys_answers_about_its_images():
    images = grey_images(7, 9, question="red?", answer="red? 7", qa_type="OE", choices=())
    np.testing.assert_array_equal(values("self_answer", images), [1, 0])
    with pytest.raises(
        UserError, match="reward 'self_classes' failed on row 0 .* has no class_question"
    ):
        values("self_classes", images)


def test_a_missing_policy_or_model_is_named():
    for name, message in (
        ("self_answer", "needs a policy, but none was passed"),
        ("clip", "needs a reward model"),
    ):
        with pytest.raises(UserError, match=message):
            compute_rewards(grey_images(1), {name: 1.0}, EMPTY_CONTEXT)


def test_models_that_rewards_need():
    paper = RewardOptions(captioner="blip", similarity="bertscore", image_distance="lpips")
    assert required_models(["cycle_both", "matching"], paper) == {"captioner", "bert", "lpips"}
    assert required_models(["cycle_both", "clip", "shapes_soft"], RewardOptions()) == {"clip"}
    with pytest.raises(
        UserError,
        match=r"config.rewards.options.models.bert must be .* a reward needs this model; "
        r"got nothing.*bert-base-uncased",
    ):
        RewardModels({"bert": ""}, None).load(["bert"])
    with pytest.raises(
        UserError, match="got './nobody here', which is not a folder; .*bert-base-uncased"
    ):
        RewardModels({"bert": "./nobody here"}, None).load(["bert"])
    with pytest.raises(
        UserError, match="models must be a block with some of captioner, .*; got {'vgg': ''}"
    ):
        RewardOptions(models={"vgg": ""})


def test_a_custom_reward(monkeypatch, tmp_path):
    monkeypatch.setattr(base.rewards, "_entries", dict(base.rewards._entries))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_rewards.py").write_text(
        "import numpy as np\n\n\ndef brightness(completions, context):\n"
        "    return np.array([c.pixels.mean() / 255 for c in completions])\n\n\nsize = 3\n"
    )
    register_custom(("my_rewards:brightness",))
    register_custom(("my_rewards:brightness",))  # the same function again is no error
    np.testing.assert_allclose(
        compute_rewards(grey_images(51, 255), {"brightness": 2.0}, EMPTY_CONTEXT).total, [0.4, 2]
    )
    for name, message in (
        ("brightness", "must list module:function; got 'brightness'"),
        (
            "no_such_module:brightness",
            "must list modules that can be imported; got 'no_such_module:",
        ),
        ("my_rewards:size", "has no function 'size'"),
    ):
        with pytest.raises(UserError, match=message):
            register_custom((name,))
