"""The policy that users hold: shapes, determinism, independence of the batch, greedy decoding, refusals."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from corl_jax.core.errors import UserError
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
def pictures(rng):
    return [rng.integers(0, 256, (48, 48, 3), np.uint8) for _ in QUESTIONS]


def test_shapes_and_types(tiny_policy):
    codes = tiny_policy.sample_image_tokens(PROMPTS, samples=2)
    pixels = tiny_policy.generate(PROMPTS, samples=2)
    assert codes.shape == (3, 2, 36) and codes.dtype == np.int32
    assert pixels.shape == (3, 2, 48, 48, 3) and pixels.dtype == np.uint8
    assert len({row.tobytes() for row in codes.reshape(6, -1)}) == 6


def test_same_seed_same_pictures_other_seed_others(tiny_policy):
    first, again, other = (
        tiny_policy.sample_image_tokens(PROMPTS, samples=2, seed=s) for s in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, again)
    assert np.mean(first == other) < 0.5


def test_neighbours_and_batches_do_not_change_a_prompts_pictures(tiny_policy):
    together = tiny_policy.sample_image_tokens(PROMPTS, samples=2)
    alone = tiny_policy.sample_image_tokens([PROMPTS[0], PROMPTS[0], PROMPTS[2]], samples=2)
    np.testing.assert_array_equal(together[[0, 2]], alone[[0, 2]])
    in_pieces = dataclasses.replace(tiny_policy, rows=4).sample_image_tokens(PROMPTS, samples=2)
    np.testing.assert_array_equal(together, in_pieces)


def test_greedy_ignores_the_seed(tiny_policy, pictures):
    codes = [
        tiny_policy.sample_image_tokens(PROMPTS, samples=2, seed=s, temperature=0) for s in (0, 1)
    ]
    np.testing.assert_array_equal(codes[0], codes[1])
    np.testing.assert_array_equal(codes[0][:, 0], codes[0][:, 1])
    answers = [tiny_policy.answer(pictures, QUESTIONS, seed=s, max_tokens=8) for s in (0, 1)]
    assert answers[0] == answers[1] and len(answers[0]) == 3
    assert answers[0] != tiny_policy.answer(pictures, QUESTIONS, temperature=1.0, max_tokens=8)


def test_guidance_changes_pictures_and_one_skips_the_silent_stream_exactly(tiny_policy):
    plain, guided = (
        tiny_policy.sample_image_tokens(PROMPTS, samples=2, guidance=w) for w in (1, 5)
    )
    nearly = tiny_policy.sample_image_tokens(PROMPTS, samples=2, guidance=1 + 1e-7)
    assert np.mean(plain == guided) < 0.9
    np.testing.assert_array_equal(plain, nearly)


def test_pictures_come_as_arrays_images_or_files(tiny_policy, pictures, tmp_path):
    Image.fromarray(pictures[1]).save(tmp_path / "picture.png")
    mixed = [pictures[0], tmp_path / "picture.png", Image.fromarray(pictures[2])]
    assert tiny_policy.answer(mixed, QUESTIONS, max_tokens=8) == tiny_policy.answer(
        pictures, QUESTIONS, max_tokens=8
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prompts": [" "]}, "prompt is empty"),
        ({"prompts": []}, "at least one"),
        ({"prompts": "a red circle"}, "list"),
        ({"prompts": ["a red elephant"]}, "elephant"),
        ({"samples": 0}, "samples=0"),
        ({"guidance": -1.0}, "guidance=-1.0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"seed": 0.5}, "seed=0.5"),
    ],
)
def test_drawing_refuses(tiny_policy, change, says):
    with pytest.raises(UserError, match=says):
        tiny_policy.generate(**({"prompts": ["a red circle"]} | change))


@pytest.mark.parametrize(
    ("images", "questions", "says"),
    [
        ([np.zeros((8, 8, 3), np.uint8)], [], "at least one"),
        ([], ["how many objects are there?"], "0 images and 1 questions"),
        ([np.zeros((8, 8, 3), np.float32)], ["how many objects are there?"], "float32"),
        ([np.zeros((8, 8), np.uint8)], ["how many objects are there?"], r"\[8, 8\]"),
        ([np.zeros((8, 8, 3), np.uint8)], [""], "question is empty"),
        (["nowhere.png"], ["how many objects are there?"], "nowhere.png"),
    ],
)
def test_answering_refuses(tiny_policy, images, questions, says):
    with pytest.raises(UserError, match=says):
        tiny_policy.answer(images, questions)


def test_rows_cover_every_prompt_once():
    assert [batching.batch_size(n, 8) for n in (1, 2, 3, 8, 9)] == [1, 2, 4, 8, 8]
    parts = list(batching.batch_rows(10, 4))
    assert [row for rows, real in parts for row in rows[:real]] == list(range(10))
    assert all(len(rows) == 4 for rows, _ in parts) and max(parts[-1][0]) == 9


def test_importing_the_package_is_light():
    code = (
        "import sys, time; t = time.perf_counter(); import corl_jax; t = time.perf_counter() - t; "
        "assert t < 0.5, t; assert 'jax' not in sys.modules and 'numpy' not in sys.modules; "
        "assert 'Policy' in corl_jax.__all__"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_first_tokens_of_a_picture(tiny_policy):
    whole = tiny_policy.sample_image_tokens(PROMPTS, samples=2)
    for length in (1, 8, 36):
        np.testing.assert_array_equal(
            tiny_policy.sample_image_tokens(PROMPTS, samples=2, length=length), whole[..., :length]
        )
    for length in (0, 37):
        with pytest.raises(
            UserError, match=f"length={length} is no part of a picture of 36 image tokens"
        ):
            tiny_policy.sample_image_tokens(PROMPTS, length=length)


def test_several_devices_share_a_policy_beside_one_that_has_its_own(
    tiny_policy, tiny_policy_folder, pictures
):
    """In turns: neither runs what was compiled for the other."""
    spread, drawn, said = Policy.load(tiny_policy_folder, devices=2), [], []
    held = spread.params["language_model/layers/attention/q_proj/kernel"]
    assert len(held.devices()) == 2 and held.addressable_shards[0].data.size * 2 == held.size
    for policy in (spread, tiny_policy, spread):
        drawn.append(policy.sample_image_tokens(PROMPTS, samples=1, temperature=0.0))
        said.append(policy.answer(pictures, QUESTIONS))
    np.testing.assert_array_equal(drawn[0], drawn[2])
    assert np.mean(drawn[0] == drawn[1]) > 0.9  # sums are added in another order
    assert said[0] == said[1] == said[2]


@pytest.mark.parametrize(
    ("devices", "says"),
    [
        (0, "expected 1 to 8"),
        (99, "devices=99, and this host has 8"),
        (3, "does not divide over 3 devices"),
    ],
)
def test_devices_that_cannot_share_it(devices, says):
    with pytest.raises(UserError, match=says):
        Policy.load("tiny", devices=devices)
