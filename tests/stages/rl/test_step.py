"""One step of reinforcement learning: what must be true of the first, its advantages, parts and placement."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from corl_jax.core.sharding import sharding_context
from corl_jax.core.trees import digest
from corl_jax.data.shapes.examples import example
from corl_jax.engine.state import merge
from corl_jax.objectives.advantages import normalize_by_group_std
from corl_jax.rewards.base import RewardContext, compute_rewards


@pytest.fixture(scope="session")
def updated(first):
    """The first step, applied."""
    return first.run()


def totals(step, task):
    """Rewards ``[B, G]`` of the samples."""
    rollout = step.rollouts[task]
    if task == "image":
        return np.asarray(rollout.pixels)[..., 0].mean((2, 3)) / 255
    decode, rows = step.stage.parts.tokenizer.decode, zip(rollout.tokens, rollout.mask, strict=True)
    texts = [
        [decode(np.asarray(t)[np.asarray(m)]) for t, m in zip(*row, strict=True)] for row in rows
    ]
    return np.array([[len(text) / 10 for text in row] for row in texts])


def close(left, right, atol):
    assert left.keys() == right.keys()
    return (
        max(float(np.max(np.abs(np.asarray(left[k]) - np.asarray(right[k])))) for k in left) <= atol
    )


def test_truths_of_a_first_step(first, updated):
    _, (said,) = updated
    for task in ("image", "text"):
        assert said[f"{task}/sampler_logp_diff"] < 1e-4
        assert said[f"{task}/ratio"] == 1 and said[f"{task}/clip_fraction"] == 0
        assert abs(said[f"{task}/kl"]) < 1e-6
        assert said[f"{task}/kl_coefficient"] == pytest.approx(0.015)  # halfway between 0 and 0.03
        assert said[f"{task}/entropy"] > 1
        part = first.batches[0][task]
        assert part.old_log_probs is None
        np.testing.assert_allclose(part.ref_log_probs, part.sampler_log_probs, atol=1e-4)
        assert float(part.weights.sum()) == pytest.approx(1) and not np.any(
            part.weights[~part.mask]
        )
    assert said["grad_norm"] > 1e-3
    assert (
        abs(said["loss"]) < 1e-2
    )  # advantages of a group add to 0; only lengths keep the sum from it


def test_the_batch_holds_what_was_asked_and_drawn(first):
    image, text = first.batches[0]["image"], first.batches[0]["text"]
    assert image.tokens.shape == (8, 2, 4) and text.tokens.shape == (8, 2, 4)
    assert (
        image.mask.all()
        and image.prompts.images is None
        and text.prompts.images.shape == (8, 16, 16, 3)
    )
    assert [r.id for r in first.raw["image"].records] == [r.id for r in first.raw["text"].records]
    for task in ("image", "text"):
        np.testing.assert_array_equal(
            first.batches[0][task].prompts.tokens, first.raw[task].prompts.tokens
        )
        assert first.host[f"{task}/reward"] == pytest.approx(totals(first, task).mean(), rel=1e-5)
        assert first.host[f"{task}/zero_std_groups"] == np.mean(np.ptp(totals(first, task), 1) == 0)
    assert first.host["text/completion_length"] == np.asarray(text.mask).sum(-1).mean()


def test_only_what_is_trainable_moves(first, updated):
    state, _ = updated
    fresh = first.stage.init()
    assert all(path.startswith("language_model/") for path in state.trainable)
    assert digest(state.frozen) == digest(fresh.frozen) and len(state.frozen) > 30
    still = [
        path
        for path in state.trainable
        if np.array_equal(state.trainable[path], fresh.trainable[path])
    ]
    assert not still


def test_separate_advantages_reach_the_batch(first):
    for task in ("image", "text"):
        want = np.asarray(normalize_by_group_std(totals(first, task).astype(np.float32)))
        np.testing.assert_allclose(first.batches[0][task].advantages, want, atol=2e-3)
    assert np.any(first.batches[0]["image"].advantages) and np.any(
        first.batches[0]["text"].advantages
    )


@pytest.mark.parametrize("pairing", ["unified", "sum_of_advantages"])
def test_paired_advantages_reach_the_batch(take_step, pairing):
    step = take_step(**{"rl.pairing": pairing})
    image, text = (totals(step, task).astype(np.float32) for task in ("image", "text"))
    want = (
        normalize_by_group_std(image + 0.8 * text)
        if pairing == "unified"
        else normalize_by_group_std(image) + 0.8 * normalize_by_group_std(text)
    )
    for task in ("image", "text"):
        np.testing.assert_allclose(step.batches[0][task].advantages, np.asarray(want), atol=2e-3)


def test_rewards_of_the_first_samples_are_those_of_the_config(first):
    """Names in the metrics are names in the config, and weights are applied."""
    assert {"image/reward/redness", "text/reward/letters"} <= set(first.host)
    completions = first.stage.judge.tasks["text"].read_back(
        first.raw["text"], first.batches[0]["text"]
    )
    twice = compute_rewards(completions, {"letters": 2.0}, RewardContext()).total
    assert twice.mean() == pytest.approx(2 * first.host["text/reward"], rel=1e-5)


@pytest.mark.parametrize(("silent", "task"), [("rl.pictures", "text"), ("rl.questions", "image")])
def test_one_task_alone(take_step, silent, task):
    step = take_step(**{silent: 0})
    assert list(step.raw) == list(step.batches[0]) == [task]
    state, (said,) = step.run()
    assert set(state.algo) == {task} and int(state.algo[task].step) == 1
    assert {name.partition("/")[0] for name in said if "/" in name} == {task}
    assert said[f"{task}/sampler_logp_diff"] < 1e-4 and said["grad_norm"] > 1e-3


def test_microbatches_add_up_to_the_batch(first, updated):
    whole, (said,) = updated
    parts, (also_said,) = first.run(microbatches=2)
    assert close(whole.trainable, parts.trainable, 1e-5)
    for name, value in said.items():
        assert also_said[name] == pytest.approx(value, abs=2e-5), name


def test_a_second_update_leaves_the_ratio_of_one(take_step):
    step = take_step(**{"updates_per_step": 2})
    assert len(step.batches) == 2 and step.batches[0] is step.batches[1]
    for part in step.batches[0].values():
        np.testing.assert_allclose(part.old_log_probs, part.sampler_log_probs, atol=1e-4)
    state, (one, two) = step.run(times=2)
    assert int(state.step) == 2
    for task in ("image", "text"):
        assert (
            one[f"{task}/ratio"] == pytest.approx(1, abs=1e-5)
            and abs(two[f"{task}/ratio"] - 1) > 1e-5
        )
        assert one[f"{task}/clip_fraction"] == 0 and two[f"{task}/kl"] > 1e-6 > abs(one[f"{task}/kl"])


def test_stale_rollouts_are_those_of_the_policy_before_the_last_update(take_step):
    """Weighed by how much more likely the policy that is updated finds them."""
    plain, step = take_step(), take_step(**{"rl.stale_rollouts": True, "rl.importance_cap": 1.02})
    np.testing.assert_array_equal(step.batches[0]["text"].tokens, plain.batches[0]["text"].tokens)
    begun = step.stage.rollouts.ahead.rollouts["text"]  # by step 0, for step 1
    state, (said,) = step.run()
    assert said["text/importance_weight"] == pytest.approx(1, abs=1e-4)
    assert digest(state.previous) == digest(step.stage.init().trainable) != digest(state.trainable)
    stage, params = step.stage, merge(state.previous, state.frozen)
    with sharding_context(stage.parts.sharder):
        again = stage.rollouts.sample(params, "text", step.raw[1]["text"], 1)
        batch, _ = next(stage.batches(state, (step.raw[1], step.raw[1]), 1))
        for rollout in (batch["text"], again):
            np.testing.assert_array_equal(rollout.tokens, begun.tokens)
        assert not np.array_equal(begun.tokens, step.batches[0]["text"].tokens)
        now = stage.rollouts.log_probs(state.params, "text", step.raw[1]["text"], begun)
        _, metrics = stage.loss(state.params, batch, state.algo)
    weights = np.minimum(np.exp(np.asarray(now) - np.asarray(begun.log_probs)), 1.02)[
        np.asarray(begun.mask)
    ]
    assert metrics["text/importance_weight"].value == pytest.approx(weights.mean(), rel=1e-5)
    assert weights.max() == np.float32(1.02) and weights.min() < 0.99


def test_running_scores_are_kept_in_the_state(take_step, first):
    step = take_step(**{"reward.normalise": "running"})
    state, (said,) = step.run()
    for task in ("image", "text"):
        raw = totals(first, task).ravel()
        seen = state.algo["rewards"][task]
        np.testing.assert_allclose(seen.count, [raw.size])
        np.testing.assert_allclose(seen.mean, [raw.mean()], rtol=1e-4)
        np.testing.assert_allclose(seen.squares, [raw.var() * raw.size], rtol=1e-2)
        assert step.host[f"{task}/reward"] == pytest.approx(
            0, abs=1e-4
        )  # z-scores of one step add to nothing
        assert step.host[
            f"{task}/reward/{'redness' if task == 'image' else 'letters'}"
        ] == pytest.approx(raw.mean(), rel=1e-4)


def loss_of(stage, state, batch):
    """The loss as a function of what is trained."""
    return lambda trainable: stage.loss(merge(trainable, state.frozen), batch, state.algo)[0]


def test_interference_is_that_of_the_tasks_gradients(take_step, first):
    """Against gradients of the whole loss with one task's share at 0; micro-batches change nothing."""
    every = take_step(**{"hooks.interference_every": 1, "microbatches": 2})
    found = {
        name: float(value) for name, value in every.host.items() if name.startswith("grad_interference/")
    }
    grads = {}
    for task, other in (("image", "answer_weight"), ("text", "image_weight")):
        stage = take_step(**{f"rl.{other}": 0.0}).stage
        with sharding_context(stage.parts.sharder):
            grad = jax.grad(loss_of(stage, stage.init(), first.batches[0]))(stage.init().trainable)
        grads[task] = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(grad)])
    norms = {task: np.linalg.norm(grad) for task, grad in grads.items()}
    cosine = grads["image"] @ grads["text"] / norms["image"] / norms["text"]
    assert found["grad_interference/cosine"] == pytest.approx(cosine, abs=1e-4) and 0 < abs(cosine) < 1
    for task, norm in norms.items():
        assert found[f"grad_interference/{task}_norm"] == pytest.approx(norm, rel=1e-4)
    assert not any(name.startswith("grad_interference/") for name in first.host)


def test_the_task_that_is_not_trained_is_probed_too(take_step):
    stage = take_step(**{"rl.questions": 0, "hooks.probe_every": 1}).stage
    with sharding_context(stage.parts.sharder):
        stage._records = lambda split: [example(split, i) for i in range(20)]
        found = stage.probe(stage.init().params)
    assert set(found) == {"image/held_out_reward", "text/held_out_reward"}


def test_probes_ask_held_out_prompts_the_same_way_every_time(first):
    stage, held_out = first.stage, []
    with sharding_context(stage.parts.sharder):
        stage._records = lambda split: (
            held_out.append(split) or [example(split, i) for i in range(20)]
        )
        params = stage.init().params
        one, again = stage.probe(params), stage.probe(params)
    assert one == again and set(one) == {"image/held_out_reward", "text/held_out_reward"} and held_out == ["test"]
    assert one["image/held_out_reward"] != first.host["image/reward"]
