"""Rewards of pictures: right is 1, every kind of mistake costs, and matching is what it says it is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from corl_jax.core.types import Completion
from corl_jax.data.shapes.examples import example
from corl_jax.data.shapes.render import render
from corl_jax.data.shapes.scene import Scene, Shape
from corl_jax.rewards.base import RewardContext, compute_rewards
from corl_jax.rewards.matching import matching_score
from corl_jax.sampling.policy_handle import RewardPolicyHandle

NAMES = ("shapes_strict", "shapes_soft", "cycle_both")


def rewards_of(prompt, *things, real=None):
    """Strict, soft and cycle of a picture of ``things`` (row, column, colour, shape) for ``prompt``."""
    pixels = render(Scene(tuple(Shape(*thing) for thing in things)))
    record = dataclasses.replace(
        example("train", 0), prompt=prompt, image=pixels if real is None else real
    )
    return compute_rewards(
        [Completion(record, pixels=pixels)], {name: 1.0 for name in NAMES}, RewardContext()
    ).matrix[0]


def test_a_true_picture_earns_everything():
    for i in range(20):
        record = example("train", i)
        scores = compute_rewards(
            [Completion(record, pixels=record.image)],
            {name: 1.0 for name in NAMES},
            RewardContext(),
        )
        np.testing.assert_array_equal(scores.matrix, np.ones((1, 3)))


PAIR = "a blue square and a red circle"
RIGHT = ((0, 0, "red", "circle"), (1, 1, "blue", "square"))


@pytest.mark.parametrize(
    ("prompt", "right", "wrong", "soft"),
    [
        (PAIR, RIGHT, ((0, 0, "red", "square"), (1, 1, "blue", "circle")), 0.4),
        (
            "a red circle left of a blue square",
            RIGHT,
            ((0, 2, "red", "circle"), (1, 1, "blue", "square")),
            0.6,
        ),
        (PAIR, RIGHT, (*RIGHT, (2, 2, "green", "circle")), None),
        (PAIR, RIGHT, RIGHT[:1], None),
        (PAIR, RIGHT, ((0, 0, "red", "circle"), (1, 1, "green", "square")), None),
        ("two red circles", ((0, 0, "red", "circle"), (0, 2, "red", "circle")), RIGHT[:1], None),
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
def test_every_mistake_costs_strict_soft_and_cycle(prompt, right, wrong, soft):
    real = render(Scene(tuple(Shape(*thing) for thing in right)))
    good, bad = rewards_of(prompt, *right, real=real), rewards_of(prompt, *wrong, real=real)
    np.testing.assert_array_equal(good, [1, 1, 1])
    assert bad[0] == 0 and np.all(bad < good) and np.all(bad >= 0)
    if soft is not None:
        assert bad[1] == pytest.approx(soft)


def test_cycle_compares_words_before_pixels():
    """The same objects elsewhere say the same; swapped attributes in nearly the same pixels do not."""
    real = render(Scene(tuple(Shape(*thing) for thing in RIGHT)))
    moved = rewards_of(PAIR, (2, 2, "red", "circle"), (2, 0, "blue", "square"), real=real)
    swapped = rewards_of(PAIR, (0, 0, "red", "square"), (1, 1, "blue", "circle"), real=real)
    assert swapped[2] < moved[2] < 1


def test_an_empty_or_noisy_picture_earns_little(rng):
    record = example("train", 0)
    blank = np.full((48, 48, 3), 238, np.uint8)
    noise = rng.integers(0, 256, (48, 48, 3), np.uint8)
    rows = [Completion(record, pixels=picture) for picture in (blank, noise)]
    scores = compute_rewards(rows, {"shapes_strict": 1.0, "shapes_soft": 1.0}, RewardContext())
    np.testing.assert_array_equal(scores.matrix, np.zeros((2, 2)))


def test_cycle_accepts_real_pictures_of_another_size():
    picture = render(Scene((Shape(0, 0, "red", "circle"),)))
    large = np.kron(picture, np.ones((2, 2, 1), np.uint8))
    assert 0.97 < rewards_of("a red circle", (0, 0, "red", "circle"), real=large)[2] <= 1


def test_matching_by_hand():
    image, text = np.array([[2.0, 0], [0, 3]]), np.array([[1.0, 0], [3, 4]])
    # cosines [[1, .6], [0, .8]]: best per image token 1 and .8, per text token 1 and .8
    assert matching_score(image, text) == pytest.approx(0.9)
    assert matching_score(image, -image) == pytest.approx(
        0.0
    )  # orthogonal is the best that is left
    assert matching_score(image[:1], -image[:1]) == pytest.approx(-1.0)


class Fixed:
    """A policy handle whose states are given."""

    def token_states(self, images, texts):
        states = np.tile(np.array([[1.0, 0], [0, 1], [9, 9], [1, 0]]), (len(texts), 1, 1))
        image = np.tile([True, True, False, False], (len(texts), 1))
        return states, image, states, np.tile([False, False, False, True], (len(texts), 1))


def test_matching_reads_the_spans_alone_and_lies_in_the_unit_interval():
    record = example("train", 0)
    scores = compute_rewards(
        [Completion(record, pixels=record.image)] * 2, {"matching": 1.0}, RewardContext(Fixed())
    )
    # cosines [[1], [0]]: mean over image tokens .5, over text tokens 1; (.75 + 1) / 2
    np.testing.assert_allclose(scores.matrix, 0.875)


CAPTIONS = ["a red circle", "two blue squares and a green triangle"]


def test_spans_are_found_at_any_padding(tiny_policy, rng):
    pictures = rng.integers(0, 256, (2, 48, 48, 3), np.uint8)
    tokenizer = tiny_policy.tokenizer
    found = {}
    for width in (56, 72):
        handle = RewardPolicyHandle(tiny_policy.sampler, tokenizer, tiny_policy.params, width)
        image, image_mask, text, text_mask = handle.token_states(pictures, CAPTIONS)
        assert image.shape == text.shape == (2, width, 128)
        np.testing.assert_array_equal(image_mask.sum(1), [36, 36])
        np.testing.assert_array_equal(
            text_mask.sum(1), [len(tokenizer.encode(caption)) for caption in CAPTIONS]
        )
        assert not np.any(image_mask & text_mask)
        found[width] = [image[image_mask], text[text_mask]]
        for row, caption in enumerate(CAPTIONS):
            ids = tokenizer.question_prompt(caption, 36)
            at = np.flatnonzero(text_mask[row]) - (width - len(ids))
            assert tokenizer.decode([ids[i] for i in at]) == caption
    for near, far in zip(*found.values(), strict=True):
        np.testing.assert_allclose(near, far, atol=2e-5)


def test_matching_of_a_policy_does_not_depend_on_the_neighbours(tiny_policy):
    records = [
        dataclasses.replace(example("train", i), prompt=caption)
        for i, caption in enumerate(CAPTIONS)
    ]
    context = RewardContext(
        RewardPolicyHandle(tiny_policy.sampler, tiny_policy.tokenizer, tiny_policy.params, 64)
    )
    rows = [Completion(record, pixels=record.image) for record in records]
    both = compute_rewards(rows, {"matching": 1.0}, context).total
    alone = [compute_rewards([row], {"matching": 1.0}, context).total[0] for row in rows]
    np.testing.assert_allclose(both, alone, atol=1e-5)
    assert np.all((both > 0) & (both < 1)) and both[0] != both[1]
