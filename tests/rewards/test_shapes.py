"""Rewards of images: 1 for a correct image, less for every mistake; matching by hand."""

from __future__ import annotations

import dataclasses
import types

import numpy as np
import pytest

from corl_jax.core.types import Completion
from corl_jax.data.shapes.examples import example
from corl_jax.data.shapes.render import render
from corl_jax.data.shapes.scene import Scene, Shape
from corl_jax.objectives.token_matching import matching_scores
from corl_jax.rewards.base import RewardContext, compute_rewards
from corl_jax.rewards.config import RewardOptions
from corl_jax.sampling.policy_handle import RewardPolicyHandle

NAMES = ("shapes_strict", "shapes_soft", "cycle_both")


def render_objects(objects):
    """The image of ``objects``, each (row, column, colour, shape)."""
    return render(Scene(tuple(Shape(*position_and_look) for position_and_look in objects)))


def rewards_of(prompt, objects, real_image=None):
    """Strict, soft and cycle of an image of ``objects`` for ``prompt``."""
    pixels = render_objects(objects)
    record = dataclasses.replace(
        example("train", 0), prompt=prompt, image=pixels if real_image is None else real_image
    )
    return compute_rewards(
        [Completion(record, pixels=pixels)], {name: 1.0 for name in NAMES}, RewardContext()
    ).matrix[0]


def test_a_correct_image_earns_everything():
    for i in range(20):
        record = example("train", i)
        scores = compute_rewards(
            [Completion(record, pixels=record.image)],
            {name: 1.0 for name in NAMES},
            RewardContext(),
        )
        np.testing.assert_array_equal(scores.matrix, np.ones((1, 3)))


PAIR = "a blue square and a red circle"
CORRECT = ((0, 0, "red", "circle"), (1, 1, "blue", "square"))


@pytest.mark.parametrize(
    ("prompt", "correct", "wrong", "soft"),
    [
        (PAIR, CORRECT, ((0, 0, "red", "square"), (1, 1, "blue", "circle")), 0.4),
        (
            "a red circle left of a blue square",
            CORRECT,
            ((0, 2, "red", "circle"), (1, 1, "blue", "square")),
            0.6,
        ),
        (PAIR, CORRECT, (*CORRECT, (2, 2, "green", "circle")), None),
        (PAIR, CORRECT, CORRECT[:1], None),
        (PAIR, CORRECT, ((0, 0, "red", "circle"), (1, 1, "green", "square")), None),
        ("two red circles", ((0, 0, "red", "circle"), (0, 2, "red", "circle")), CORRECT[:1], None),
    ],
    ids=[
        "swapped attributes",
        "reversed relation",
        "one too many",
        "one missing",
        "wrong colour",
        "wrong count",
    ],
)
def test_every_mistake_costs_strict_soft_and_cycle(prompt, correct, wrong, soft):
    real_image = render_objects(correct)
    correct_rewards = rewards_of(prompt, correct, real_image)
    wrong_rewards = rewards_of(prompt, wrong, real_image)
    np.testing.assert_array_equal(correct_rewards, [1, 1, 1])
    assert wrong_rewards[0] == 0
    assert np.all(wrong_rewards < correct_rewards) and np.all(wrong_rewards >= 0)
    if soft is not None:
        assert wrong_rewards[1] == pytest.approx(soft)


def test_cycle_compares_words_before_pixels():
    """Displaced objects have the same caption; swapped attributes in similar pixels do not."""
    real_image = render_objects(CORRECT)
    displaced = rewards_of(PAIR, ((2, 2, "red", "circle"), (2, 0, "blue", "square")), real_image)
    swapped = rewards_of(PAIR, ((0, 0, "red", "square"), (1, 1, "blue", "circle")), real_image)
    assert swapped[2] < displaced[2] < 1


def test_a_blank_or_noisy_image_earns_nothing(rng):
    record = example("train", 0)
    blank = np.full((48, 48, 3), 238, np.uint8)
    noise = rng.integers(0, 256, (48, 48, 3), np.uint8)
    rows = [Completion(record, pixels=image) for image in (blank, noise)]
    names = ("shapes_strict", "shapes_soft", "cycle")
    scores = compute_rewards(rows, dict.fromkeys(names, 1.0), RewardContext())
    np.testing.assert_array_equal(scores.matrix, np.zeros((2, 3)))

    # What remains of both directions is the likeness of the pixels.
    both, pixel = compute_rewards(rows, {"cycle_both": 1.0, "pixel": 1.0}, RewardContext()).matrix.T
    np.testing.assert_allclose(both, pixel / 2, rtol=1e-6)
    words = RewardOptions(similarity="soft_jaccard_embedding")
    sentence = types.SimpleNamespace(f1=lambda a, b: np.zeros(len(a)))
    context = RewardContext(models=types.SimpleNamespace(sentence=sentence), options=words)
    assert not compute_rewards(rows, {"cycle": 1.0}, context).total.any()


def test_cycle_accepts_real_images_of_another_size():
    objects = ((0, 0, "red", "circle"),)
    large = np.kron(render_objects(objects), np.ones((2, 2, 1), np.uint8))
    assert 0.97 < rewards_of("a red circle", objects, large)[2] <= 1


def test_matching_by_hand():
    def score(image, text):
        # Another position, which is in neither span, in front and in between.
        states = np.array([[9.0, 9.0], *image, [9.0, -9.0], *text])[None]
        spans = np.array([0, *[1] * len(image), 0, *[2] * len(text)])[None]
        (value,) = matching_scores(states, spans == 1, spans == 2)
        return float(value)

    image, text = [[2.0, 0], [0, 3]], [[1.0, 0], [3, 4]]
    # cosines [[1, .6], [0, .8]]: best per image token 1 and .8, per text token 1 and .8
    assert score(image, text) == pytest.approx(0.9)
    assert score(image, text[:1]) == pytest.approx(0.75)
    # No cosine is positive: the best match of each token is an orthogonal one.
    assert score(image, [[-2.0, 0], [0, -3]]) == pytest.approx(0.0)
    assert score(image[:1], [[-2.0, 0]]) == pytest.approx(-1.0)
    assert score([[0.0, 0]], text) == pytest.approx(0.0)


class FixedScores:
    """A policy handle with fixed scores."""

    def matching_scores(self, images, texts):
        return np.linspace(-1, 1, len(texts), dtype=np.float32)


def test_matching_maps_to_the_unit_interval():
    record = example("train", 0)
    rows = [Completion(record, pixels=record.image)] * 3
    scores = compute_rewards(rows, {"matching": 1.0}, RewardContext(FixedScores()))
    np.testing.assert_allclose(scores.total, [0, 0.5, 1])
    options = RewardOptions(normalization="none")
    scores = compute_rewards(rows, {"matching": 1.0}, RewardContext(FixedScores(), None, options))
    np.testing.assert_allclose(scores.total, [-1, 0, 1])


CAPTIONS = ["a red circle", "two blue squares and a green triangle"]


def test_matching_does_not_depend_on_padding(tiny_policy, rng):
    images = rng.integers(0, 256, (2, 48, 48, 3), np.uint8)
    tokenizer = tiny_policy.tokenizer
    scores = []
    for width in (56, 128):
        handle = RewardPolicyHandle(tiny_policy.fns, tokenizer, tiny_policy.params, width)
        scores.append(handle.matching_scores(images, CAPTIONS))

        # The mask has exactly the tokens of the captions.
        mask = handle.caption_mask(width, CAPTIONS)
        for row, caption in enumerate(CAPTIONS):
            ids = tokenizer.question_prompt(caption, 36)
            positions = np.flatnonzero(mask[row]) - (width - len(ids))
            assert tokenizer.decode([ids[position] for position in positions]) == caption
    np.testing.assert_allclose(*scores, atol=2e-5)


def test_prompts_are_as_wide_as_their_batch_needs(tiny_policy, rng, monkeypatch):
    widths = []

    def record_width(policy, params, prompts, is_caption):
        widths.append(prompts.tokens.shape[1])
        return np.zeros(len(is_caption), np.float32)

    monkeypatch.setattr("corl_jax.sampling.policy_handle.prompt_matching", record_width)
    images = rng.integers(0, 256, (1, 48, 48, 3), np.uint8)
    for limit in (56, 1024):
        handle = RewardPolicyHandle(
            tiny_policy.fns, tiny_policy.tokenizer, tiny_policy.params, limit
        )
        handle.matching_scores(images, CAPTIONS[:1])
    handle.matching_scores(images, ["a red circle and " * 12 + "a blue square"])
    assert widths == [56, 64, 128]


def test_matching_does_not_depend_on_the_other_rows(tiny_policy):
    records = [
        dataclasses.replace(example("train", i), prompt=caption)
        for i, caption in enumerate(CAPTIONS)
    ]
    context = RewardContext(
        RewardPolicyHandle(tiny_policy.fns, tiny_policy.tokenizer, tiny_policy.params, 64)
    )
    rows = [Completion(record, pixels=record.image) for record in records]
    batched = compute_rewards(rows, {"matching": 1.0}, context).total
    single = [compute_rewards([row], {"matching": 1.0}, context).total[0] for row in rows]
    np.testing.assert_allclose(batched, single, atol=1e-5)
    assert np.all((batched > 0) & (batched < 1)) and batched[0] != batched[1]
