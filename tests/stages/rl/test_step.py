"""One step of reinforcement learning: its batch, its rewards and advantages, and its update."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from corl_jax.core.sharding import sharding_context
from corl_jax.core.trees import digest
from corl_jax.data.shapes.examples import example
from corl_jax.engine.state import merge
from corl_jax.objectives.normalizations import normalize_by_group_std
from corl_jax.rewards.base import RewardContext, compute_rewards
from corl_jax.stages.rl.stage import RlStage

TASKS = ("image", "text")
REWARDS = {"image": "redness", "text": "letters"}
HELD_OUT_REWARDS = {"image/held_out_reward", "text/held_out_reward"}


@pytest.fixture(scope="session")
def updated(first):
    """The first step after its update: the state, and metrics."""
    return first.run()


def expected_totals(step, task):
    """Rewards ``[B, G]`` of the samples, computed by hand."""
    rollout = step.rollouts[task]
    if task == "image":
        return np.asarray(rollout.pixels)[..., 0].mean((2, 3)) / 255

    # The reward of a text is a tenth of its length.
    tokens, mask = np.asarray(rollout.tokens), np.asarray(rollout.mask)
    totals = np.zeros(tokens.shape[:2])
    for index in np.ndindex(*totals.shape):
        totals[index] = len(step.stage.setup.tokenizer.decode(tokens[index][mask[index]])) / 10
    return totals


def largest_difference(left, right):
    """Of any parameter."""
    assert left.keys() == right.keys()
    return max(
        float(np.max(np.abs(np.asarray(left[path]) - np.asarray(right[path])))) for path in left
    )


def test_metrics_of_a_first_update(first, updated):
    _, (metrics,) = updated
    for task in TASKS:
        assert metrics[f"{task}/sampler_logp_diff"] < 1e-4
        assert metrics[f"{task}/ratio"] == 1 and metrics[f"{task}/clip_fraction"] == 0
        assert abs(metrics[f"{task}/kl"]) < 1e-6
        # Halfway between 0 and 0.03.
        assert metrics[f"{task}/kl_coefficient"] == pytest.approx(0.015)
        assert metrics[f"{task}/entropy"] > 1

        part = first.batches[0][task]
        assert part.old_log_probs is None
        np.testing.assert_allclose(part.ref_log_probs, part.sampler_log_probs, atol=1e-4)
        assert float(part.weights.sum()) == pytest.approx(1)
        assert not np.any(part.weights[~part.mask])
    assert metrics["grad_norm"] > 1e-3
    # Advantages of a group add up to 0; only different lengths keep the loss from it.
    assert abs(metrics["loss"]) < 1e-2


def test_the_batch_holds_the_prompts_and_their_samples(first):
    image, text = first.batches[0]["image"], first.batches[0]["text"]
    assert image.tokens.shape == (8, 2, 4) and text.tokens.shape == (8, 2, 4)
    assert image.mask.all()
    assert image.prompts.images is None and text.prompts.images.shape == (8, 16, 16, 3)
    image_records, text_records = (first.raw[task].records for task in TASKS)
    assert [record.id for record in image_records] == [record.id for record in text_records]

    metrics = first.host_metrics
    for task in TASKS:
        np.testing.assert_array_equal(
            first.batches[0][task].prompts.tokens, first.raw[task].prompts.tokens
        )
        totals = expected_totals(first, task)
        assert metrics[f"{task}/reward"] == pytest.approx(totals.mean(), rel=1e-5)
        assert metrics[f"{task}/zero_std_groups"] == np.mean(np.ptp(totals, 1) == 0)
    assert metrics["text/completion_length"] == np.asarray(text.mask).sum(-1).mean()
    has_end = np.asarray(text.tokens == first.stage.setup.tokenizer.eos_id).any(-1)
    assert metrics["text/truncated"] == 1 - has_end.mean()


def test_all_trainable_parameters_move_and_no_others(first, updated):
    state, _ = updated
    initial = first.stage.init_state()
    assert all(path.startswith("language_model/") for path in state.trainable)
    assert digest(state.frozen) == digest(initial.frozen) and len(state.frozen) > 30
    unmoved = [
        path
        for path in state.trainable
        if np.array_equal(state.trainable[path], initial.trainable[path])
    ]
    assert not unmoved


def test_separate_advantages_reach_the_batch(first):
    for task in TASKS:
        totals = expected_totals(first, task).astype(np.float32)
        advantages = first.batches[0][task].advantages
        np.testing.assert_allclose(
            advantages, np.asarray(normalize_by_group_std(totals)), atol=2e-3
        )
        assert np.any(advantages)


@pytest.mark.parametrize("pairing", ["unified", "sum_of_advantages"])
def test_paired_advantages_reach_the_batch(take_step, pairing):
    step = take_step(**{"rl.advantage.pairing": pairing})
    image, text = (expected_totals(step, task).astype(np.float32) for task in TASKS)
    if pairing == "unified":
        expected = normalize_by_group_std(image + 0.8 * text)
    else:
        expected = normalize_by_group_std(image) + 0.8 * normalize_by_group_std(text)
    for task in TASKS:
        np.testing.assert_allclose(
            step.batches[0][task].advantages, np.asarray(expected), atol=2e-3
        )


def test_rewards_of_the_first_samples_are_those_of_the_config(first):
    """Names in the metrics are names in the config, and weights are applied."""
    assert {"image/reward/redness", "text/reward/letters"} <= set(first.host_metrics)
    completions = first.stage.reward_scorer.tasks["text"].to_completions(
        first.raw["text"], first.batches[0]["text"]
    )
    doubled = compute_rewards(completions, {"letters": 2.0}, RewardContext()).total
    assert doubled.mean() == pytest.approx(2 * first.host_metrics["text/reward"], rel=1e-5)


@pytest.mark.parametrize(
    ("prompts_key", "task"),
    [("rl.rollout.image_prompts", "text"), ("rl.rollout.text_prompts", "image")],
)
def test_a_task_without_prompts_is_left_out(take_step, prompts_key, task):
    step = take_step(**{prompts_key: 0})
    assert list(step.raw) == list(step.batches[0]) == [task]
    state, (metrics,) = step.run()
    assert set(state.algo) == {task} and int(state.algo[task].step) == 1
    assert {name.partition("/")[0] for name in metrics if "/" in name} == {task}
    assert metrics[f"{task}/sampler_logp_diff"] < 1e-4 and metrics["grad_norm"] > 1e-3


def test_microbatches_add_up_to_the_batch(first, updated):
    expected_state, (expected_metrics,) = updated
    state, (metrics,) = first.run(microbatches=2)
    assert largest_difference(state.trainable, expected_state.trainable) <= 1e-5
    for name, expected in expected_metrics.items():
        assert metrics[name] == pytest.approx(expected, abs=2e-5), name


@pytest.fixture(scope="module")
def four_updates(take_step):
    """A run of two steps with two updates each.

    Its first step, and state and metrics of four updates by the first batch. The learning rate
    warms up over half of the updates and then decays to a fifth; KL coefficients rise linearly.
    """
    kl_schedule = {
        f"kl.{task}.{name}": value
        for task in TASKS
        for name, value in {"schedule": "linear", "start": 0.01, "end": 0.03}.items()
    }
    step = take_step(
        **{
            "steps": 2,
            "updates_per_step": 2,
            "optim.schedule": "linear",
            "optim.warmup_ratio": 0.5,
            "optim.final_fraction": 0.2,
            **kl_schedule,
        }
    )
    return step, *step.run(times=4)


def test_a_second_update_has_other_ratios_than_one(four_updates):
    step, state, metrics_of_updates = four_updates
    assert len(step.batches) == 2 and step.batches[0] is step.batches[1]
    for part in step.batches[0].values():
        np.testing.assert_allclose(part.old_log_probs, part.sampler_log_probs, atol=1e-4)

    assert int(state.step) == 4
    metrics_1, metrics_2, *_ = metrics_of_updates
    for task in TASKS:
        assert metrics_1[f"{task}/ratio"] == pytest.approx(1, abs=1e-5)
        assert abs(metrics_2[f"{task}/ratio"] - 1) > 1e-5
        assert metrics_1[f"{task}/clip_fraction"] == 0
        assert metrics_2[f"{task}/kl"] > 1e-6 > abs(metrics_1[f"{task}/kl"])


def test_schedules_count_updates_and_not_steps(four_updates):
    step, state, metrics_of_updates = four_updates
    peak = step.config["optim"]["learning_rate"]
    shares = [metrics["learning_rate"] / peak for metrics in metrics_of_updates]
    assert shares == pytest.approx([0.5, 1, 1, 0.6])
    # The end, where a fifth update would begin.
    assert step.optimizer.learning_rate(4) == pytest.approx(0.2 * peak)

    for task in TASKS:
        coefficients = [metrics[f"{task}/kl_coefficient"] for metrics in metrics_of_updates]
        assert coefficients == pytest.approx([0.01, 0.015, 0.02, 0.025])
        assert int(state.algo[task].step) == 4
        assert float(state.algo[task].coef) == pytest.approx(0.03)


def test_the_reference_follows_after_all_updates_of_a_step(rl_config, first):
    config = rl_config(**{"updates_per_step": 2, "rl.reference.update_every": 3})
    stage = RlStage(config, first.stage.setup, first.optimizer)
    assert stage.following_reference({}).every == 6


def test_rollouts_one_step_off_policy_are_of_the_parameters_before_the_update(take_step, first):
    """Their importance weights are how much likelier the updated policy makes them, capped."""
    step = take_step(**{"rl.rollout.one_step_off_policy": True, "rl.loss.importance_cap": 1.02})
    stage = step.stage
    np.testing.assert_array_equal(step.batches[0]["text"].tokens, first.batches[0]["text"].tokens)

    # Step 0 has dispatched the rollouts of step 1.
    prefetched_batch = stage.rollout_sampler.prefetched
    prompts, prefetched = prefetched_batch.prompts["text"], prefetched_batch.rollouts["text"]
    state, (metrics,) = step.run()
    assert metrics["text/importance_weight"] == pytest.approx(1, abs=1e-4)
    initial_digest = digest(stage.init_state().trainable)
    assert digest(state.previous) == initial_digest != digest(state.trainable)

    # They are samples of the parameters that the state keeps as the previous ones.
    previous_params = merge(state.previous, state.frozen)
    raw_1 = step.raw[1]
    with sharding_context(stage.setup.sharder):
        sampled_again = stage.rollout_sampler.sample_part(previous_params, "text", prompts, 1)
        batch, _ = next(stage.batches(state, (raw_1, raw_1), 1))
        for rollout in (batch["text"], sampled_again):
            np.testing.assert_array_equal(rollout.tokens, prefetched.tokens)
        assert not np.array_equal(prefetched.tokens, step.batches[0]["text"].tokens)
        log_probs = stage.rollout_sampler.log_probs(state.params, "text", prompts, prefetched)
        _, loss_metrics = jax.jit(stage.loss)(state.params, batch, state.algo)

    ratios = np.exp(np.asarray(log_probs) - np.asarray(prefetched.log_probs))
    weights = np.minimum(ratios, 1.02)[np.asarray(prefetched.mask)]
    assert loss_metrics["text/importance_weight"].value == pytest.approx(weights.mean(), rel=1e-5)
    assert weights.max() == np.float32(1.02) and weights.min() < 0.99


def test_running_moments_of_rewards_are_in_the_state(take_step, first):
    step = take_step(**{"rewards.options.normalization": "running"})
    state, _ = step.run()
    for task in TASKS:
        totals = expected_totals(first, task).ravel()
        moments = state.algo["rewards"][task]
        np.testing.assert_allclose(moments.count, [totals.size])
        np.testing.assert_allclose(moments.mean, [totals.mean()], rtol=1e-4)
        np.testing.assert_allclose(moments.squares, [totals.var() * totals.size], rtol=1e-2)

        # Z-scores of the only step so far add up to 0; the parts are as computed.
        assert step.host_metrics[f"{task}/reward"] == pytest.approx(0, abs=1e-4)
        part_mean = step.host_metrics[f"{task}/reward/{REWARDS[task]}"]
        assert part_mean == pytest.approx(totals.mean(), rel=1e-4)


def test_grad_interference_compares_the_gradients_of_the_tasks(take_step, rl_config, first):
    """Against gradients of the loss with the other task's weight at 0; micro-batches add up."""
    step = take_step(**{"hooks.interference_every": 1, "microbatches": 2})
    state, batch = first.stage.init_state(), first.batches[0]
    grads = {}
    for task, other_task in (("image", "text"), ("text", "image")):
        config = rl_config(**{f"rl.loss.task_weight.{other_task}": 0.0})
        stage = RlStage(config, first.stage.setup, first.optimizer)

        def loss(trainable, stage=stage):
            return stage.loss(merge(trainable, state.frozen), batch, state.algo)[0]

        with sharding_context(stage.setup.sharder):
            grad = jax.jit(jax.grad(loss))(state.trainable)
        grads[task] = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(grad)])

    norms = {task: np.linalg.norm(grad) for task, grad in grads.items()}
    cosine = grads["image"] @ grads["text"] / norms["image"] / norms["text"]
    metrics = {name: float(value) for name, value in step.host_metrics.items()}
    assert metrics["grad_interference/cosine"] == pytest.approx(cosine, abs=1e-4)
    assert 0 < abs(cosine) < 1
    for task, norm in norms.items():
        assert metrics[f"grad_interference/{task}_norm"] == pytest.approx(norm, rel=1e-4)
    assert not any(name.startswith("grad_interference/") for name in first.host_metrics)


def test_the_probe_measures_a_task_that_is_not_trained_too(take_step):
    stage = take_step(**{"rl.rollout.text_prompts": 0, "hooks.probe_every": 1}).stage
    with sharding_context(stage.setup.sharder):
        stage._open_records = lambda split, checks: [example(split, i) for i in range(20)]
        metrics = stage.probe(stage.init_state().params)
    assert set(metrics) == HELD_OUT_REWARDS


def test_the_probe_samples_the_same_held_out_prompts_every_time(first):
    stage, opened_splits = first.stage, []

    def open_records(split, checks):
        opened_splits.append(split)
        return [example(split, i) for i in range(20)]

    with sharding_context(stage.setup.sharder):
        stage._open_records = open_records
        params = stage.init_state().params
        metrics, repeated = stage.probe(params), stage.probe(params)
    assert metrics == repeated and set(metrics) == HELD_OUT_REWARDS
    assert opened_splits == ["test"]
    assert metrics["image/held_out_reward"] != first.host_metrics["image/reward"]
