"""Verdicts on own pictures (Janus-Pro-R1's calibration reward): questions, rewards, advantages."""

from __future__ import annotations

import numpy as np
import pytest

from corl_jax.core.errors import UserError
from corl_jax.objectives.calibration import calibration
from corl_jax.objectives.normalizations import normalize_by_group_std
from corl_jax.stages.rl.read_config import read_rl_config
from corl_jax.tasks.self_check import read_verdict

CHECK = {
    "rl.check.prompts": 2,
    "rl.check.reward": "redness",
    "rl.check.weight": 0.5,
    "rl.check.prompt_length": 48,
    "rl.rollout.image_prompts": 4,
    "rl.rollout.text_prompts": 0,
    "rl.rollout.group_size": 4,
}


@pytest.fixture(scope="module")
def checked(take_step):
    """The first step of a run whose policy judges the pictures of two prompts."""
    return take_step(**CHECK)


def test_calibration_is_that_of_janus_pro_r1():
    """Four pictures of a prompt: it says yes, no, no, yes."""
    scores = np.array([0.9, 0.2, 0.6, 0.3])
    yes = np.array([True, False, False, True])
    rewards = calibration(scores, yes, ~yes)
    np.testing.assert_allclose(rewards, [0.9, 0.8, 0.4, 0.3])
    advantages = normalize_by_group_std(rewards.astype(np.float32)[None])
    np.testing.assert_allclose(advantages, [[1.0187, 0.6791, -0.6791, -1.0187]], atol=5e-4)

    # Neither yes nor no is not calibrated, however bad the picture is.
    neither = np.zeros(4, bool)
    assert calibration(scores, neither, neither).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("<think> red circle </think> <answer> yes </answer>", True),
        ("<answer>No.</answer>", False),
        ("Yes, it does", True),
        ("no", False),
        ("<answer> two </answer> yes", None),
        ("nothing", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_verdicts_are_read(text, verdict):
    assert read_verdict(text) is verdict


def test_the_policy_is_asked_about_its_own_pictures(checked):
    check, image = checked.batches[0]["check"], checked.batches[0]["image"]
    assert check.tokens.shape == (8, 1, 4)
    pixels = np.asarray(checked.rollouts["image"].pixels)[:2].reshape(8, 16, 16, 3)
    np.testing.assert_allclose(check.prompts.images, pixels / 127.5 - 1, atol=1e-6)
    tokenizer = checked.stage.setup.tokenizer
    question = tokenizer.decode(
        np.asarray(check.prompts.tokens[0])[np.asarray(check.prompts.mask[0])]
    )
    assert checked.raw["image"].records[0].prompt.split()[-1] in question

    # An untrained policy says neither yes nor no, mostly; every reward is computed by hand.
    texts = [tokenizer.decode(row[0]) for row in np.asarray(check.tokens)]
    verdicts = [read_verdict(text) for text in texts]
    scores = pixels[..., 0].mean((1, 2)) / 255
    rewards = [
        0.0 if verdict is None else 1 - abs(score - verdict)
        for score, verdict in zip(scores, verdicts, strict=True)
    ]
    metrics = checked.host_metrics
    assert metrics["check/reward"] == pytest.approx(np.mean(rewards), abs=1e-5)
    assert metrics["check/said_yes"] == np.mean([verdict is True for verdict in verdicts])
    assert metrics["check/no_verdict"] == np.mean([verdict is None for verdict in verdicts])

    # Weights within the image task, and a baseline of its own.
    assert float(check.weights.sum()) == pytest.approx(0.5)
    assert float(image.weights.sum()) == pytest.approx(1)
    expected = normalize_by_group_std(np.reshape(rewards, (2, 4)).astype(np.float32))
    np.testing.assert_allclose(np.reshape(check.advantages, (2, 4)), expected, atol=2e-3)


def test_its_loss_agrees_with_the_sampler(checked):
    _, (metrics,) = checked.run()
    assert metrics["check/sampler_logp_diff"] < 1e-4
    assert metrics["check/kl_coefficient"] == pytest.approx(0.015)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"rl.check.reward": "clip"},
            "rl.check.reward must be one of the rewards in .*; got 'clip'",
        ),
        ({"rl.check.prompts": 5}, "rl.check.prompts must be at most the 4 image prompts"),
        ({"rl.advantage.resample_rounds": 1}, "rl.check.prompts must be 0 with dynamic sampling"),
    ],
)
def test_refusals(rl_config, changes, message):
    with pytest.raises(UserError, match=message):
        read_rl_config(rl_config(**CHECK | changes), 1)
