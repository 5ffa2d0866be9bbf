"""Options of the algorithm, each from its config key to the number that it changes.

At the end the ways of ULM-R1's code, which ``compat=ulm_r1`` sets all at once.
"""

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
from corl_jax.engine.loop import train
from corl_jax.engine.state import merge
from corl_jax.objectives.entropy_target import initial_entropy_state
from corl_jax.objectives.normalizations import normalize_by_group_std
from corl_jax.rewards.base import RewardContext, compute_rewards
from corl_jax.rewards.config import RewardOptions
from corl_jax.stages.rl.loss import next_entropy_states, policy_loss
from corl_jax.stages.run import prepare
from corl_jax.stages.setup import build_setup


def with_values(cfg, block, **values):
    """An ``RlConfig`` with other values in one of its blocks."""
    return dataclasses.replace(cfg, **{block: dataclasses.replace(getattr(cfg, block), **values)})


@pytest.fixture(scope="module")
def loss(first):
    """A function from values of a block of the config to loss and metrics of the first step."""
    stage = first.stage
    state = stage.init_state()

    def run(block="loss", batch=None, **values):
        cfg = with_values(stage.cfg, block, **values)
        with sharding_context(stage.setup.sharder):
            total, metrics = jax.jit(
                lambda *args: policy_loss(stage.setup.rollout_policy, cfg, *args)
            )(state.params, first.batches[0] if batch is None else batch, state.algo)
        return float(total), {name: float(metric.value) for name, metric in metrics.items()}

    return run


@pytest.fixture(scope="module")
def default_loss(loss):
    """Loss and metrics of the plain config."""
    return loss()


def test_a_leave_one_out_baseline_reaches_the_batch(first, take_step):
    """With two samples per group, twice what subtracting the mean leaves."""
    step = take_step(**{"rl.advantage.baseline": "leave_one_out"})
    for task in ("image", "text"):
        np.testing.assert_allclose(
            step.batches[0][task].advantages, 2 * first.batches[0][task].advantages, rtol=1e-5
        )


def test_rewards_normalized_one_by_one_reach_the_batch(take_step):
    """GDPO by its definition, from the rewards of the samples; one reward only is logged."""
    weights = {"letters": 2.0, "tens": 0.5, "format": 0.0}
    step = take_step(
        text=weights, **{"rl.advantage.multi_objective_aggregation": "normalize_then_sum"}
    )
    completions = step.stage.visual_qa.to_completions(step.raw["text"], step.rollouts["text"])
    matrix = compute_rewards(completions, weights, RewardContext()).matrix.reshape(8, 2, 3)
    stds = matrix.std(1, ddof=1, keepdims=True)
    scores = (matrix - matrix.mean(1, keepdims=True)) / (stds + 1e-6)
    sums = scores @ np.array([2.0, 0.5, 0.0])
    expected = (sums - sums.mean()) / (sums.std(ddof=1) + 1e-6)
    np.testing.assert_allclose(step.batches[0]["text"].advantages, expected, atol=1e-3)

    # A group is silent if all parts with a weight are equal; shares are those of the advantages.
    varies = stds[:, 0] > 0
    metrics = step.host_metrics
    assert metrics["text/zero_std_groups"] == 1 - varies[:, :2].any(1).mean()
    spread = varies.mean(0) * [2.0, 0.5, 0.0]
    assert metrics["text/reward_std_share/tens"] == pytest.approx(spread[1] / spread.sum())
    assert 0 < varies[:, 1].mean() < varies[:, 0].mean()


def test_advantages_for_strict_rewards_reach_the_batch_or_are_refused(take_step):
    step = take_step(text="even", **{"rl.advantage.normalization": "maxrl"})
    advantages = np.asarray(step.batches[0]["text"].advantages)
    assert {-1, 0, 1} == set(np.round(advantages, 4).flat)

    pass_at_1 = {"rl.advantage.normalization": "pass_at_k", "rl.advantage.pass_k": 1}
    with pytest.raises(UserError, match="so rewards of image samples must be 0 or 1; got 0."):
        take_step(text="even", **pass_at_1)
    silent = take_step(image="even", text="even", **pass_at_1)
    for task in ("image", "text"):
        zeros = ~np.asarray(silent.batches[0][task].advantages).any(1)
        assert silent.host_metrics[f"{task}/zero_std_groups"] == zeros.mean()


def test_the_entropy_bonus_is_subtracted_from_the_loss(loss, default_loss):
    """For images, whose tokens all have one weight, it is the mean entropy."""
    default_total, default_metrics = default_loss
    total, metrics = loss(entropy_bonus={"image": 0.3, "text": 0.0})
    entropy = metrics["image/entropy"]
    assert entropy == pytest.approx(default_metrics["image/entropy"])
    assert default_metrics["image/entropy"] > 1
    assert total == pytest.approx(default_total - 0.3 * entropy, rel=1e-5)


def test_the_coefficient_of_an_entropy_target_is_added_to_the_loss(first, default_loss):
    """Of images alone; the state after the update is that of the other half of the controller."""
    stage = first.stage
    cfg = with_values(stage.cfg, "loss", entropy_target={"image": 2.0, "text": 0.0})
    part, state = first.batches[0]["image"], stage.init_state()
    psi = dataclasses.replace(initial_entropy_state(), psi=jnp.float32(1e-3))
    with sharding_context(stage.setup.sharder):
        total, metrics = jax.jit(lambda *args: policy_loss(stage.setup.rollout_policy, cfg, *args))(
            state.params, first.batches[0], state.algo | {"entropy": {"image": psi}}
        )
    values = {name: float(metric.value) for name, metric in metrics.items()}
    assert values["image/entropy_coefficient"] == pytest.approx(1e-3)
    assert "text/entropy_coefficient" not in values

    # All image tokens have one weight, so that the mean entropy is what is added.
    default_total, default_metrics = default_loss
    entropy = default_metrics["image/entropy"]
    assert float(total) == pytest.approx(default_total + 1e-3 * entropy, abs=1e-6)
    assert part.mask.all() and entropy > 2
    after = next_entropy_states(cfg, {"image": psi}, metrics)["image"]
    assert float(after.psi) == pytest.approx(1e-3 + 5e-5, rel=1e-4)
    assert next_entropy_states(cfg, {"image": psi}, {})["image"] is psi


def test_the_clip_acts_in_the_second_update(take_step):
    step = take_step(**{"updates_per_step": 2, "rl.loss.clip_low": 0.01, "rl.loss.clip_high": 0.02})
    _, (metrics_1, metrics_2) = step.run(times=2)
    for task in ("image", "text"):
        assert metrics_1[f"{task}/clip_fraction"] == 0 < metrics_2[f"{task}/clip_fraction"] < 1
        assert metrics_1[f"{task}/ratio"] == pytest.approx(1, abs=1e-5)


def test_factors_of_tokens_multiply_advantage_and_kl(first, loss):
    """All log-ratios to the reference are 1, so that k3 is exp(-1)."""
    part = first.batches[0]["image"]
    rng = np.random.default_rng(0)
    of_advantage, of_kl = rng.uniform(0, 2, (2, *part.tokens.shape)).astype(np.float32)
    part = dataclasses.replace(
        part,
        ref_log_probs=part.sampler_log_probs - 1,
        advantage_factors=of_advantage,
        kl_factors=of_kl,
    )
    total, metrics = loss(batch={"image": part})
    advantages = np.asarray(part.advantages)[..., None] * of_advantage
    expected = np.asarray(part.weights) * (0.015 * np.exp(-1) * of_kl - advantages)
    assert metrics["image/kl"] == pytest.approx(np.exp(-1), rel=1e-3)
    assert total == pytest.approx(expected.sum(), rel=1e-3)
    assert abs(expected.sum()) > 0.01


def test_credit_is_of_whole_groups_however_they_are_divided(take_step):
    values = {
        "rl.loss.image_credit": "third",
        "rl.rollout.image_prompts": 1,
        "rl.rollout.text_prompts": 0,
        "rl.rollout.group_size": 4,
    }
    together, divided = (take_step(devices, **values).batches[0]["image"] for devices in (1, 2))
    assert together.tokens.shape == (1, 4, 4) and divided.tokens.shape == (2, 2, 4)
    for name in ("tokens", "advantage_factors", "kl_factors"):
        whole, parts = (np.asarray(getattr(part, name)) for part in (together, divided))
        np.testing.assert_allclose(parts.reshape(whole.shape), whole, rtol=1e-4, err_msg=name)

    # Three of four tokens count, four thirds each; the first is always among them.
    kl_factors = np.asarray(together.kl_factors)
    assert set(np.unique(kl_factors).round(5)) == {0, np.float32(4 / 3).round(5)}
    assert (kl_factors[..., 0] > 1).all() and np.ptp(kl_factors[..., 1:]) > 1
    np.testing.assert_allclose(together.advantage_factors, kl_factors, rtol=1e-3)


@pytest.mark.parametrize(("clip", "largest_ratio"), [("ppo", np.exp(2)), ("two_sided", 4.0)])
def test_every_clip_reaches_the_loss(first, loss, clip, largest_ratio):
    """Old log-probs are lowered so that all ratios are e**2."""
    part = dataclasses.replace(first.batches[0]["text"], ref_log_probs=None)
    part = dataclasses.replace(part, old_log_probs=part.sampler_log_probs - 2)
    total, metrics = loss(batch={"text": part}, clip=clip, clip_ceiling=4.0)

    advantages = np.asarray(part.advantages)[..., None]
    ratios = np.where(advantages < 0, largest_ratio, 1.2)
    expected = -ratios * advantages * np.asarray(part.weights)
    assert metrics["text/ratio"] == pytest.approx(np.exp(2), rel=1e-4)
    task_weight = first.stage.cfg.loss.task_weight["text"]
    atol = 1e-4 * np.abs(expected).sum()
    assert total == pytest.approx(task_weight * expected.sum(), abs=atol)


@pytest.mark.parametrize("clip", ["cispo", "gspo", "sapo"])
def test_other_bounds_of_the_ratio_reach_the_loss(first, loss, clip):
    """Old log-probs are lowered so that all ratios are 1.001, or 6 for a cap."""
    part = dataclasses.replace(first.batches[0]["text"], ref_log_probs=None)
    log_ratio = np.log(6) if clip == "cispo" else 1e-3
    part = dataclasses.replace(part, old_log_probs=part.sampler_log_probs - log_ratio)
    widths = {"image": 1.0, "text": 4e-4}
    total, metrics = loss(
        batch={"text": part}, clip=clip, gspo_clip_low=widths, gspo_clip_high=widths
    )

    advantages, ratio = np.asarray(part.advantages)[..., None], np.exp(log_ratio)
    tau = np.where(advantages > 0, 1.0, 1.05)
    expected = {
        "cispo": -5 * advantages * np.asarray(part.sampler_log_probs),
        "gspo": -np.where(advantages > 0, 1.0004, ratio) * advantages,
        "sapo": -4 / tau / (1 + np.exp(-tau * (ratio - 1))) * advantages,
    }[clip]
    mask = np.asarray(part.mask)
    share = (mask & (advantages > 0)).sum() / mask.sum()
    clipped = {"cispo": 1, "gspo": share, "sapo": 0}[clip]
    assert metrics["text/clip_fraction"] == pytest.approx(clipped, abs=1e-6)
    assert metrics["text/ratio"] == pytest.approx(ratio, rel=1e-4)
    expected = np.where(mask, expected, 0) * np.asarray(part.weights)
    task_weight = first.stage.cfg.loss.task_weight["text"]
    atol = 1e-3 * float(np.abs(expected).sum())
    assert total == pytest.approx(task_weight * expected.sum(), abs=atol)


def test_answers_that_were_cut_are_left_out_of_the_loss(take_step):
    """All of them here, which leaves the images to train on; nothing is NaN."""
    step = take_step(
        text={"letters": 1.0, "overlong": 0.5},
        **{"rl.loss.mask_truncated_completions": True, "rewards.options.overlong_buffer": 4},
    )
    image, text = (step.batches[0][task] for task in ("image", "text"))
    assert step.host_metrics["text/truncated"] == 1 == -step.host_metrics["text/reward/overlong"]
    assert not np.any(text.weights) and np.any(text.mask)
    assert float(image.weights.sum()) == pytest.approx(1)
    _, (metrics,) = step.run()
    assert metrics["grad_norm"] > 0 == metrics["skipped_updates"]

    # Answers that end count.
    eos_id, rollout = step.stage.setup.tokenizer.eos_id, step.rollouts["text"]
    ended = dataclasses.replace(rollout, tokens=rollout.tokens.at[:, 0, -1].set(eos_id))
    counted = np.asarray(step.stage.policy_batches.counted_tokens("text", ended))
    assert counted[:, 0].all() and not counted[:, 1].any()


def test_a_kl_term_in_the_rewards(take_step):
    """After an update, k1 times the coefficient is missing from rewards, and nothing in the loss."""
    kl_term = {"schedule": "constant", "start": 0.5, "estimator": "k1", "placement": "reward"}
    step = take_step(**{f"kl.text.{name}": value for name, value in kl_term.items()})
    stage, setup = step.stage, step.stage.setup
    state, _ = step.run()
    with sharding_context(setup.sharder):
        batch, metrics = next(stage.batches(state, step.raw, 1))
        part = batch["text"]
        totals, without_reference = (
            float(jax.jit(stage.loss)(state.params, {"text": part}, state.algo)[0])
            for part in (part, dataclasses.replace(part, ref_log_probs=None))
        )
    assert totals == without_reference

    log_ratios = np.asarray(part.old_log_probs - part.ref_log_probs)
    penalty = 0.5 * np.where(part.mask, log_ratios, 0).sum(-1)
    assert np.abs(penalty).max() > 1e-3
    assert metrics["text/kl_penalty"] == pytest.approx(penalty.mean(), rel=1e-5)
    assert "image/kl_penalty" not in metrics and batch["image"].old_log_probs is None

    # The reward of a text is a tenth of its length; its column stays without the penalty.
    completions = stage.visual_qa.to_completions(step.raw["text"], part)
    rewards = np.array([len(completion.text) / 10 for completion in completions])
    assert metrics["text/reward"] == pytest.approx(rewards.mean(), rel=1e-5)
    expected = normalize_by_group_std((rewards.reshape(penalty.shape) - penalty).astype(np.float32))
    np.testing.assert_allclose(part.advantages, expected, atol=2e-3)


def test_a_reference_that_follows(take_step):
    """After two updates it is the middle between the first and the updated policy."""
    step = take_step(**{"rl.reference.update_every": 2, "rl.reference.mix": 0.5})
    stage, initial = step.stage, step.stage.init_state()
    state, _ = step.run(times=2)
    for path, leaf in state.reference.params.items():
        middle = (np.asarray(initial.trainable[path]) + np.asarray(state.trainable[path])) / 2
        np.testing.assert_allclose(leaf, middle, atol=1e-7, err_msg=path)

    # The next step takes its reference log-probs from there.
    with sharding_context(stage.setup.sharder):
        batch, _ = next(stage.batches(state, step.raw, 1))
        rollout_batch = stage.rollout_sampler.sample_batch(state.params, step.raw, 1)
        prompts, rollout = rollout_batch.prompts["text"], rollout_batch.rollouts["text"]
        np.testing.assert_array_equal(rollout.tokens, batch["text"].tokens)
        following_params = merge(state.reference.params, state.frozen)
        following, fixed = (
            stage.rollout_sampler.log_probs(params, "text", prompts, rollout)
            for params in (following_params, initial.params)
        )
    np.testing.assert_allclose(batch["text"].ref_log_probs, following, atol=1e-6)
    assert np.abs(np.asarray(fixed) - np.asarray(following)).max() > 1e-3
    assert not stage.fixed_reference


@pytest.mark.parametrize(
    "values", [{"image_alignment": "off_by_one_ulm_r1"}, {"guidance": "conditional"}]
)
def test_alignment_and_guidance_show_in_sampler_logp_diff(loss, default_loss, values):
    _, default_metrics = default_loss
    _, metrics = loss("log_probs", **values)
    assert default_metrics["image/sampler_logp_diff"] < 1e-4
    assert metrics["image/sampler_logp_diff"] > 0.01
    assert metrics["text/sampler_logp_diff"] < 1e-4
    assert metrics["image/entropy"] != default_metrics["image/entropy"]


def test_partial_credit_for_open_answers():
    record = dataclasses.replace(example("train", 0), answer="juice", qa_type="OE")
    completion = Completion(record, "<answer>orange juice</answer>")
    for open_ended, value in (("exact", 0.0), ("soft_jaccard", 0.5)):
        context = RewardContext(options=RewardOptions(open_ended=open_ended))
        assert compute_rewards([completion], {"accuracy": 1.0}, context).total == [value]


@pytest.fixture(scope="module")
def ulm_r1_run(small_config, small_world, tmp_path_factory):
    """Two steps as ULM-R1's code takes them: the work directory, the config, the metrics."""
    workdir = tmp_path_factory.mktemp("ulm_r1") / "run"
    config = small_config("unified", "tiny,compat=ulm_r1", **{"optim.learning_rate": 1e-2})
    config["rewards"]["image"] = {"redness": 1.0}
    with small_world():
        return workdir, config, [result.metrics for result in train(prepare(config, workdir))]


def test_compat_ulm_r1_sets_every_switch(ulm_r1_run):
    _, config, rows = ulm_r1_run
    rl, options = config["rl"], config["rewards"]["options"]
    assert rl["log_probs"]["image_alignment"] == "off_by_one_ulm_r1"
    assert rl["log_probs"]["guidance"] == "conditional"
    assert (rl["loss"]["clip"], rl["loss"]["aggregation"]) == ("none", "sequence_mean")
    assert (rl["advantage"]["pairing"], rl["advantage"]["normalization"]) == ("unified", "group")
    assert rl["advantage"]["pairing_text_weight"] == 0.8
    assert rl["loss"]["task_weight"]["text"] == 1.0
    assert (options["normalization"], options["open_ended"]) == ("none", "soft_jaccard")
    assert options["strict_whitespace"] is True

    assert len(rows) == 2
    for row in rows:
        assert row["image/sampler_logp_diff"] > 0.01
        assert row["image/clip_fraction"] == 0 < row["grad_norm"]


def test_compat_of_other_arguments():
    get_config = importlib.import_module("configs.unified").get_config
    full_size = get_config("janus_pro_1b,compat=ulm_r1")
    assert full_size.model.param_dtype == "bfloat16"
    assert full_size.rl.loss.clip == "none" and full_size.rl.rollout.text_prompts == 16
    with pytest.raises(UserError, match="compat must be one of none, ulm_r1; got 'odd'"):
        get_config("tiny,compat=odd")


def test_a_run_in_bfloat16_is_saved_so_and_read_in_either_dtype(ulm_r1_run, rl_config, small_world):
    workdir, config, _ = ulm_r1_run
    with small_world():
        bfloat16_setup = build_setup(config | {"init_from": str(workdir)})
        initial = build_setup(config).load_params("language_model/*")
        trained = bfloat16_setup.load_params()
        in_float32 = build_setup(rl_config(init_from=str(workdir))).load_params()

    assert {str(leaf.dtype) for leaf in initial.values()} == {"bfloat16"}
    for path, leaf in in_float32.items():
        # The image tokenizer computes in float32 throughout.
        is_exact = path.startswith("image_tokenizer/")
        assert leaf.dtype == jnp.float32 and (trained[path].dtype == jnp.float32) == is_exact, path
        assert bfloat16_setup.rollout_param_specs[path].dtype == trained[path].dtype
        np.testing.assert_array_equal(leaf, trained[path].astype(jnp.float32), err_msg=path)
    assert any(np.any(np.asarray(initial[path] != trained[path])) for path in initial)
