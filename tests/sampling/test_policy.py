"""``Policy``: shapes, seeds, independence of the batch, greedy decoding, errors."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from corl_jax.core.errors import UserError
from corl_jax.data.text_tokenizer import truncated_rows
from corl_jax.sampling import batching
from corl_jax.sampling.policy import Policy

PROMPTS = [
    "a red circle",
    "two blue squares and a green triangle",
    "a purple circle left of a red square",
]
QUESTIONS = [
    "how many objects are there?",
    "what shape is the red object?",
    "is there a blue circle?",
]


@pytest.fixture
def images(rng):
    return [rng.integers(0, 256, (48, 48, 3), np.uint8) for _ in QUESTIONS]


def test_shapes_and_types(tiny_policy):
    image_tokens = tiny_policy.sample_image_tokens(PROMPTS, samples=2)
    pixels = tiny_policy.generate(PROMPTS, samples=2)
    assert image_tokens.shape == (3, 2, 36) and image_tokens.dtype == np.int32
    assert pixels.shape == (3, 2, 48, 48, 3) and pixels.dtype == np.uint8
    assert len({row.tobytes() for row in image_tokens.reshape(6, -1)}) == 6


def test_the_seed_decides_the_images(tiny_policy):
    first, same_seed, other_seed = (
        tiny_policy.sample_image_tokens(PROMPTS, samples=2, seed=seed) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, same_seed)
    assert np.mean(first == other_seed) < 0.5


def test_neighbours_and_batches_do_not_change_the_images_of_a_prompt(tiny_policy):
    image_tokens = tiny_policy.sample_image_tokens(PROMPTS, samples=2)
    other_neighbour = [PROMPTS[0], PROMPTS[0], PROMPTS[2]]
    changed = tiny_policy.sample_image_tokens(other_neighbour, samples=2)
    np.testing.assert_array_equal(image_tokens[[0, 2]], changed[[0, 2]])
    small_batches = dataclasses.replace(tiny_policy, rows=4)
    np.testing.assert_array_equal(
        image_tokens, small_batches.sample_image_tokens(PROMPTS, samples=2)
    )

    # More samples than a call holds come from several calls.
    many = small_batches.sample_image_tokens(PROMPTS[:1], samples=6)
    assert many.shape == (1, 6, 36)
    np.testing.assert_array_equal(many[:, :2], image_tokens[:1])


def test_greedy_ignores_the_seed(tiny_policy, images):
    tokens_0, tokens_1 = (
        tiny_policy.sample_image_tokens(PROMPTS, samples=2, seed=seed, temperature=0)
        for seed in (0, 1)
    )
    np.testing.assert_array_equal(tokens_0, tokens_1)
    np.testing.assert_array_equal(tokens_0[:, 0], tokens_0[:, 1])

    answers_0, answers_1 = (
        tiny_policy.answer(images, QUESTIONS, seed=seed, max_tokens=8) for seed in (0, 1)
    )
    assert answers_0 == answers_1 and len(answers_0) == 3
    assert answers_0 != tiny_policy.answer(images, QUESTIONS, temperature=1.0, max_tokens=8)
    tiny_temperature = tiny_policy.answer(images, QUESTIONS, temperature=1e-9, max_tokens=8)
    assert answers_0 == tiny_temperature


def test_answers_that_were_cut_say_so(tiny_policy, images):
    """An untrained policy writes no end token in so few tokens."""
    answers = tiny_policy.sample_answers(images, QUESTIONS, max_tokens=8)
    assert [answer.is_truncated for answer in answers] == [True] * 3
    tokens = np.array([[5, 1, 0], [5, 6, 7], [5, 6, 1]])
    np.testing.assert_array_equal(truncated_rows(tokens, 1), [False, True, False])
    with pytest.raises(UserError, match="an answer must have at most .* tokens, the 512 positions"):
        tiny_policy.sample_answers(images, QUESTIONS, max_tokens=100_000)


def test_guidance_changes_images_and_guidance_1_is_the_conditional_distribution(tiny_policy):
    """Guidance 1 leaves the unconditional prompts out; a scale just above it runs them."""
    conditional, guided, nearly_conditional = (
        tiny_policy.sample_image_tokens(PROMPTS, samples=2, guidance=guidance)
        for guidance in (1, 5, 1 + 1e-7)
    )
    assert np.mean(conditional == guided) < 0.9
    np.testing.assert_array_equal(conditional, nearly_conditional)


def test_images_may_be_arrays_pil_images_or_files(tiny_policy, images, tmp_path):
    Image.fromarray(images[1]).save(tmp_path / "image.png")
    mixed = [images[0], tmp_path / "image.png", Image.fromarray(images[2])]
    answers = tiny_policy.answer(mixed, QUESTIONS, max_tokens=8)
    assert answers == tiny_policy.answer(images, QUESTIONS, max_tokens=8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": [" "]}, "prompt is empty"),
        ({"prompts": []}, r"prompts must be a list of at least one text; got \[\]"),
        ({"prompts": "a red circle"}, "prompts must be a list .*; got 'a red circle'"),
        ({"prompts": ["a red elephant"]}, "elephant"),
        ({"samples": 0}, "samples must be a whole number from 1 to 1024; got 0"),
        ({"samples": 10**8}, "samples must be a whole number from 1 to 1024; got 100000000"),
        ({"guidance": -1.0}, "guidance_scale must be a finite number of at least 0; got -1.0"),
        ({"temperature": float("nan")}, "temperature must be a finite number of .*; got nan"),
        ({"seed": 0.5}, "seed must be a whole number from 0 to 4294967295; got 0.5"),
        ({"seed": -1}, "seed must be a whole number from 0 to 4294967295; got -1"),
        ({"seed": 2**32}, "seed must be a whole number from 0 to 4294967295; got 4294967296"),
        ({"prompts": ["red " * 500]}, "an image must have at most .* 512 positions .*; got 36"),
    ],
)
def test_bad_arguments_of_generate(tiny_policy, change, message):
    with pytest.raises(UserError, match=message):
        tiny_policy.generate(**({"prompts": ["a red circle"]} | change))


@pytest.mark.parametrize(
    ("images", "questions", "message"),
    [
        (
            [np.zeros((8, 8, 3), np.uint8)],
            [],
            "questions must be a list of at least one text",
        ),
        ([], ["how many objects are there?"], "got 0 images and 1 questions"),
        ([np.zeros((8, 8, 3), np.float32)], ["how many objects are there?"], "got float32"),
        ([np.zeros((8, 8), np.uint8)], ["how many objects are there?"], r"\[8, 8\]"),
        ([np.zeros((8, 8, 3), np.uint8)], [""], "question is empty"),
        (["nowhere.png"], ["how many objects are there?"], "nowhere.png"),
    ],
)
def test_bad_arguments_of_answer(tiny_policy, images, questions, message):
    with pytest.raises(UserError, match=message):
        tiny_policy.answer(images, questions)


def test_batches_have_every_prompt_once():
    assert [batching.batch_size(prompts, 8) for prompts in (1, 2, 3, 8, 9)] == [1, 2, 4, 8, 8]
    batches = list(batching.batch_rows(10, 4))
    assert [row for rows, count in batches for row in rows[:count]] == list(range(10))
    assert all(len(rows) == 4 for rows, _ in batches) and max(batches[-1][0]) == 9


def test_importing_the_package_is_fast():
    """Neither JAX nor NumPy is imported before it is used."""
    code = (
        "import sys, time; t = time.perf_counter(); import corl_jax; t = time.perf_counter() - t; "
        "assert t < 0.5, t; assert 'jax' not in sys.modules and 'numpy' not in sys.modules; "
        "assert 'Policy' in corl_jax.__all__"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_first_tokens_of_an_image(tiny_policy):
    image_tokens = tiny_policy.sample_image_tokens(PROMPTS, samples=2)
    for length in (1, 8, 36):
        first_tokens = tiny_policy.sample_image_tokens(PROMPTS, samples=2, length=length)
        np.testing.assert_array_equal(first_tokens, image_tokens[..., :length])
    for length in (0, 37):
        message = f"length must be from 1 to 36, the tokens of an image; got {length}"
        with pytest.raises(UserError, match=message):
            tiny_policy.sample_image_tokens(PROMPTS, length=length)


def test_policies_on_two_devices_and_on_one_in_turns(tiny_policy, tiny_policy_folder, images):
    """Neither runs a program that was compiled for the other."""
    sharded = Policy.load(tiny_policy_folder, devices=2)
    kernel = sharded.params["language_model/layers/attention/q_proj/kernel"]
    assert len(kernel.devices()) == 2
    assert kernel.addressable_shards[0].data.size * 2 == kernel.size

    image_tokens, answers = [], []
    for policy in (sharded, tiny_policy, sharded):
        image_tokens.append(policy.sample_image_tokens(PROMPTS, samples=1, temperature=0.0))
        answers.append(policy.answer(images, QUESTIONS))
    np.testing.assert_array_equal(image_tokens[0], image_tokens[2])
    # Two devices add sums in another order, which may change a token.
    assert np.mean(image_tokens[0] == image_tokens[1]) > 0.9
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (0, "devices must be from 1 to 8, .*; got 0"),
        (99, "devices must be from 1 to 8, as many as this host has .*; got 99"),
        (3, "does not divide over 3 devices"),
    ],
)
def test_a_number_of_devices_that_cannot_be(devices, message):
    with pytest.raises(UserError, match=message):
        Policy.load("tiny", devices=devices)
