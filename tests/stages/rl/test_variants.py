"""Variants by name, from the config to the number that each is about; the reference's ways, one by one and together."""

from __future__ import annotations

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corl_jax.core.errors import UserError
from corl_jax.core.sharding import sharding_context
from corl_jax.core.types import Completion
from corl_jax.data.shapes.examples import example
from corl_jax.engine.state import merge
from corl_jax.rewards.base import RewardContext, compute_rewards
from corl_jax.rewards.config import RewardSettings
from corl_jax.stages.rl.loss import policy_loss
from corl_jax.stages.run import prepare, steps
from corl_jax.stages.setup import build_setup


@pytest.fixture(scope="module")
def loss(first):
    """A function from changes of the settings to the first step's loss and metrics under them; no gradient."""
    stage = first.stage
    state = stage.init()

    def run(batch=None, **changes):
        settings = dataclasses.replace(stage.settings, **changes)
        with sharding_context(stage.parts.sharder):
            total, metrics = jax.jit(
                lambda *given: policy_loss(stage.parts.sampler, settings, *given)
            )(state.params, first.batches[0] if batch is None else batch, state.algo)
        return float(total), {name: float(metric.value) for name, metric in metrics.items()}

    return run


@pytest.fixture(scope="module")
def plain(loss):
    return loss()


def test_leaving_one_out_reaches_the_batch(first, take_step):
    step = take_step(**{"rl.baseline": "leave_one_out"})
    for task in ("image", "text"):  # G = 2: twice what the mean leaves
        np.testing.assert_allclose(
            step.batches[0][task].advantages, 2 * first.batches[0][task].advantages, rtol=1e-5
        )


def test_entropy_is_taken_off_the_loss(loss, plain):
    total, said = loss(entropy_bonus={"image": 0.3, "text": 0.0})
    assert (
        said["image/entropy"] == pytest.approx(plain[1]["image/entropy"])
        and plain[1]["image/entropy"] > 1
    )  # every image token has the same weight
    assert total == pytest.approx(plain[0] - 0.3 * said["image/entropy"], rel=1e-5)


def test_the_clip_acts_in_the_second_update(take_step):
    step = take_step(**{"updates_per_step": 2, "rl.epsilon_low": 0.01, "rl.epsilon_high": 0.02})
    _, (one, two) = step.run(times=2)
    for task in ("image", "text"):
        assert one[f"{task}/clip_fraction"] == 0 < two[f"{task}/clip_fraction"] < 1
        assert one[f"{task}/ratio"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("clip", "most"), [("ppo", np.exp(2)), ("two_sided", 4.0)])
def test_every_clip_reaches_the_loss(first, loss, clip, most):
    """Old log-probs lowered so that all ratios are e**2."""
    part = dataclasses.replace(first.batches[0]["text"], ref_log_probs=None)
    part = dataclasses.replace(part, old_log_probs=part.sampler_log_probs - 2)
    total, said = loss({"text": part}, clip=clip, clip_ceiling=4.0)
    advantages = np.asarray(part.advantages)[..., None]
    want = -np.where(advantages < 0, most, 1.2) * advantages * np.asarray(part.weights)
    assert said["text/ratio"] == pytest.approx(np.exp(2), rel=1e-4)
    share = first.stage.settings.answer_weight
    assert total == pytest.approx(share * want.sum(), abs=1e-4 * np.abs(want).sum())


def test_the_reference_follows(take_step):
    """After the second step the KL is measured from the middle between where the policy was and is."""
    step = take_step(**{"rl.reference_every": 2, "rl.reference_mix": 0.5})
    stage, start = step.stage, step.stage.init()
    state, _ = step.run(times=2)
    for path, leaf in state.reference.params.items():
        want = (np.asarray(start.trainable[path]) + np.asarray(state.trainable[path])) / 2
        np.testing.assert_allclose(leaf, want, atol=1e-7, err_msg=path)
    with sharding_context(stage.parts.sharder):
        batch, _ = next(stage.batches(state, step.raw, 1))
        drawn = stage.rollouts.sample_batch(state.params, step.raw, 1)
        np.testing.assert_array_equal(drawn.rollouts["text"].tokens, batch["text"].tokens)
        given = "text", drawn.asked["text"], drawn.rollouts["text"]
        middle = stage.rollouts.log_probs(merge(state.reference.params, state.frozen), *given)
        far = stage.rollouts.log_probs(start.params, *given)
    np.testing.assert_allclose(batch["text"].ref_log_probs, middle, atol=1e-6)
    assert np.abs(np.asarray(far) - np.asarray(middle)).max() > 1e-3 and not stage.reference


@pytest.mark.parametrize("change", [{"image_logprob_alignment": "reference_off_by_one"},
                                    {"logprob_guidance": "conditional"}])  # fmt: skip
def test_alignment_and_guidance_show_in_the_mismatch(loss, plain, change):
    _, said = loss(**change)
    assert plain[1]["image/sampler_logp_diff"] < 1e-4 and said["image/sampler_logp_diff"] > 0.01
    assert said["text/sampler_logp_diff"] < 1e-4
    assert said["image/entropy"] != plain[1]["image/entropy"]


def test_partial_credit_for_open_answers():
    row = Completion(
        dataclasses.replace(example("train", 0), answer="juice", qa_type="OE"),
        "<answer>orange juice</answer>",
    )
    for open_ended, value in (("exact", 0.0), ("soft_jaccard", 0.5)):
        context = RewardContext(settings=RewardSettings(open_ended=open_ended))
        assert compute_rewards([row], {"accuracy": 1.0}, context).total == [value]


@pytest.fixture(scope="module")
def reference(small_config, small_world, tmp_path_factory):
    """Two steps as the reference takes them: the work directory, the config, the rows."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    config = small_config("unified", "tiny,compat=reference", **{"optim.learning_rate": 1e-2})
    config["rewards"]["image"] = {"redness": 1.0}
    with small_world():
        return folder, config, [result.metrics for result in steps(prepare(config, folder))]


def test_one_switch_turns_all_on(reference):
    _, config, rows = reference
    rl, reward = config["rl"], config["reward"]
    assert (rl["image_logprob_alignment"], rl["logprob_guidance"]) == (
        "reference_off_by_one",
        "conditional",
    )
    assert (rl["clip"], rl["pairing"], rl["scale"], rl["aggregation"]) == (
        "none",
        "unified",
        "group",
        "sequence_mean",
    )
    assert (rl["text_weight"], rl["answer_weight"]) == (0.8, 1.0)
    assert (reward["normalise"], reward["open_ended"], reward["strict_whitespace"]) == (
        "none",
        "soft_jaccard",
        True,
    )
    assert len(rows) == 2
    for row in rows:
        assert row["image/sampler_logp_diff"] > 0.01 and row["image/clip_fraction"] == 0 < row["grad_norm"]
    full = importlib.import_module("configs.unified").get_config("janus_pro_1b,compat=reference")
    assert (
        full.model.param_dtype == "bfloat16" and full.rl.clip == "none" and full.rl.questions == 16
    )
    with pytest.raises(UserError, match="unknown compat 'odd'; expected none or reference"):
        importlib.import_module("configs.unified").get_config("tiny,compat=odd")


def test_without_master_weights_a_run_is_narrow_and_handed_on_all_the_same(
    reference, rl_config, small_world
):
    folder, config, _ = reference
    with small_world():
        start, narrow = build_setup(config), build_setup(config | {"init_from": str(folder)})
        before, same = start.params("language_model/*"), narrow.params()
        wide = build_setup(rl_config(init_from=str(folder))).params()
    assert {str(leaf.dtype) for leaf in before.values()} == {"bfloat16"}
    for path, leaf in wide.items():
        exact = path.startswith("image_tokenizer/")  # computed in float32 throughout
        assert leaf.dtype == jnp.float32 and (same[path].dtype == jnp.float32) == exact, path
        assert narrow.rollout[path].dtype == same[path].dtype
        np.testing.assert_array_equal(leaf, same[path].astype(jnp.float32), err_msg=path)
    assert any(np.any(np.asarray(before[path] != same[path])) for path in before)
