"""The real picture as one sample of a group: where it stands, what it weighs, what it is left out of."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest

from corl_jax.core.errors import UserError
from corl_jax.core.sharding import sharding_context
from corl_jax.core.types import Rewards
from corl_jax.data.shapes.examples import example
from corl_jax.sampling.image_codec import ImageCodec
from corl_jax.stages.rl.curriculum import success_shares
from corl_jax.stages.rl.read_config import read_rl_config

EXTERNAL = {"rl.external.image": "record_image"}


@pytest.fixture(scope="module")
def step(take_step):
    """A first step whose groups are one sample of the policy and the real picture."""
    return take_step(**EXTERNAL)


def test_the_last_sample_is_the_records_picture_and_the_others_are_as_before(step, first):
    part, before = step.batches[0]["image"], first.batches[0]["image"]
    assert np.asarray(part.is_external).tolist() == [[False, True]] * 8
    np.testing.assert_array_equal(part.tokens[:, 0], before.tokens[:, 0])

    codec = ImageCodec.of_policy(step.stage.setup.cfg, step.stage.init_state().params)
    images = [record.image for record in step.raw["image"].records]
    np.testing.assert_array_equal(part.tokens[:, 1], codec.encode(images))
    assert step.batches[0]["text"].is_external is None

    # It is rewarded as the image tokenizer shows it; the mean is that of the policy's own samples.
    redness = codec.decode(np.asarray(part.tokens[:, 1]))[..., 0].mean((1, 2)) / 255
    assert step.host_metrics["image/external_reward"] == pytest.approx(redness.mean(), rel=1e-5)
    own = np.asarray(step.rollouts["image"].pixels)[:, 0, ..., 0].mean((1, 2)) / 255
    assert step.host_metrics["image/reward"] == pytest.approx(own.mean(), rel=1e-5)
    assert np.abs(redness - own).min() > 1e-5
    np.testing.assert_array_equal(np.sign(part.advantages[:, 1]), np.sign(redness - own))

    # People see which one it is.
    samples = step.stage.completion_log.run(1, None).samples
    assert [sample.is_external for sample in samples] == [False, True] * 2 + [False] * 4
    assert [note.endswith(" real") for note in step.stage.sample_sheet.notes] == [False, True] * 4


def test_its_tokens_have_their_own_rule_under_the_unguided_distribution(step):
    stage, setup = step.stage, step.stage.setup
    part = step.batches[0]["image"]
    advantages = np.where(part.is_external, part.advantages, 0).astype(np.float32)
    alone = dataclasses.replace(part, ref_log_probs=None, advantages=advantages)
    with sharding_context(setup.sharder):
        state = stage.init_state()
        total, metrics = jax.jit(stage.loss)(state.params, {"image": alone}, state.algo)
        policy, prompts = setup.rollout_policy, step.prompts["image"].prompts
        sampling = stage.cfg.sampling_params(policy, "image")
        options = stage.cfg.log_prob_options("image")
        unmarked = dataclasses.replace(step.rollouts["image"], tokens=part.tokens)
        guided, unguided = (
            np.asarray(
                policy.log_probs(
                    state.params,
                    prompts,
                    unmarked,
                    sampling,
                    dataclasses.replace(options, guided=is_guided),
                )
            )
            for is_guided in (True, False)
        )
    assert options.guided and np.abs(guided - unguided)[:, 1].max() > 1e-3
    values = {name: float(metric.value) for name, metric in metrics.items()}
    assert values["image/external_log_prob"] == pytest.approx(unguided[:, 1].mean(), rel=1e-4)

    probs = np.exp(unguided[:, 1])
    weights = 2 * probs / (1.5 * probs + 0.5)
    losses = -weights * np.sqrt(1 - probs) * advantages[:, 1:]
    assert values["image/external_weight"] == pytest.approx(weights.mean(), rel=1e-4)
    expected = (losses * np.asarray(part.weights)[:, 1]).sum()
    assert float(total) == pytest.approx(expected, rel=1e-3) and abs(expected) > 1e-4
    # Metrics of the policy's own samples do not see it.
    assert values["image/sampler_logp_diff"] < 1e-4 and values["image/ratio"] == 1


def test_a_group_that_is_divided_has_one_real_picture(take_step):
    values = {
        "rl.rollout.image_prompts": 1,
        "rl.rollout.text_prompts": 0,
        "rl.rollout.group_size": 4,
    }
    step = take_step(2, **EXTERNAL | values)
    divided, rollout = step.batches[0]["image"], step.rollouts["image"]
    assert np.asarray(divided.is_external).tolist() == [[False, False], [False, True]]
    replaced = np.any(np.asarray(divided.tokens) != np.asarray(rollout.tokens), -1)
    np.testing.assert_array_equal(replaced, divided.is_external)


def test_success_is_that_of_the_policy_itself(step):
    cfg = dataclasses.replace(
        step.stage.cfg,
        curriculum=dataclasses.replace(
            step.stage.cfg.curriculum, success={"image": "redness", "text": ""}, success_at=0.5
        ),
    )
    matrix = np.array([[0.0], [1], [1], [0]], np.float32)
    rewards = Rewards(("redness",), matrix, matrix[:, 0])
    np.testing.assert_array_equal(success_shares(cfg, {"image": rewards})["image"], [0, 1])


def test_records_without_a_picture_are_refused(step):
    record = dataclasses.replace(example("train", 0), image=None)
    *_, check = step.stage.train_checks["image"]
    with pytest.raises(UserError, match="record_image' needs a picture, which the record lacks"):
        check(record)
    assert check not in step.stage.record_checks({"image": []})["image"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rl.advantage.pairing": "unified"}, "pairing must be 'separate'; got 'unified'"),
        ({"rl.loss.image_credit": "contrast"}, "image_credit must be 'uniform'; got 'contrast'"),
    ],
)
def test_what_is_refused(small_config, changes, message):
    config = small_config("unified", **EXTERNAL | changes)
    with pytest.raises(UserError, match=message) as error:
        read_rl_config(json.loads(json.dumps(config)), 1)
    assert "\n" not in str(error.value)
