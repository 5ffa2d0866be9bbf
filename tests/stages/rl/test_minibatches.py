"""Several updates over shuffled parts of one rollout."""

from __future__ import annotations

import types

import jax
import numpy as np
import pytest
from helpers import apply_update

from corl_jax.core.sharding import Sharder, make_mesh, sharding_context
from corl_jax.core.types import PolicyBatch, Prompts
from corl_jax.engine.update import make_update
from corl_jax.objectives.token_weights import aggregations, token_weights
from corl_jax.stages.rl.config_blocks import LossConfig, RolloutConfig
from corl_jax.stages.rl.minibatches import Minibatches

PROMPTS, GROUP_SIZE, LENGTH = 8, 2, 6


def made_batch(aggregation, repeats=1):
    """A batch whose tokens say which prompt and sample they are of; sample (3, 1) does not count."""
    samples = np.arange(PROMPTS * GROUP_SIZE)
    mask = np.arange(LENGTH) < 1 + samples[:, None] % 5
    counted = mask & (samples != 7)[:, None]
    weights = token_weights(counted, aggregation=aggregation)
    shape = (PROMPTS * repeats, GROUP_SIZE // repeats)
    tokens, mask, weights = (
        np.asarray(values).reshape(*shape, LENGTH)
        for values in (np.tile(samples[:, None], LENGTH), mask, weights)
    )
    rows = np.repeat(np.arange(PROMPTS), repeats)[:, None]
    return PolicyBatch(
        Prompts(rows, rows >= 0), tokens, mask, tokens, None, None, tokens[..., 0], weights
    )


def minibatches(aggregation="sequence_mean", repeats=1, devices=1, count=2):
    """Parts of batches on a mesh where a prompt has ``repeats`` rows."""
    mesh = make_mesh({"data": -1, "fsdp": 1, "tensor": 1}, jax.devices()[:devices])
    rollout = RolloutConfig(
        image_prompts=PROMPTS, text_prompts=PROMPTS, group_size=GROUP_SIZE, minibatches=count
    )
    sampler = types.SimpleNamespace(
        cfg=types.SimpleNamespace(rollout=rollout, loss=LossConfig(aggregation=aggregation)),
        seed=3,
        setup=types.SimpleNamespace(sharder=Sharder(mesh)),
        prompt_repeats=lambda prompts: repeats,
    )
    return Minibatches(sampler)


@pytest.mark.parametrize("aggregation", sorted(aggregations))
def test_parts_are_batches_of_their_own(aggregation):
    """Each epoch has every prompt once, in another order, and weights as if the part were all."""
    parts_of, batch = minibatches(aggregation), {"text": made_batch(aggregation)}
    epochs = []
    for epoch in range(2):
        parts = [parts_of(batch, 5, 2 * epoch + number)["text"] for number in range(2)]
        prompts = np.concatenate([part.prompts.tokens[:, 0] for part in parts])
        assert sorted(prompts) == list(range(PROMPTS))
        epochs.append(tuple(prompts))
        for part in parts:
            # All of a row stays together: its prompt, both its samples, their advantages.
            expected = part.prompts.tokens * GROUP_SIZE + np.arange(GROUP_SIZE)
            np.testing.assert_array_equal(part.tokens[..., 0], expected)
            np.testing.assert_array_equal(part.advantages, expected)
            counted = np.asarray(part.mask) & (expected != 7)[..., None]
            weights = token_weights(counted, aggregation=aggregation)
            np.testing.assert_allclose(part.weights, weights, rtol=1e-5)
    assert len({*epochs, tuple(range(PROMPTS))}) == 3
    again = parts_of(batch, 5, 0)["text"].prompts.tokens[:, 0]
    np.testing.assert_array_equal(again, epochs[0][: PROMPTS // 2])
    assert list(parts_of(batch, 6, 0)["text"].prompts.tokens[:, 0]) != list(again)


def test_one_part_is_the_batch_itself():
    batch = {"text": made_batch("token_mean")}
    assert minibatches(count=1)(batch, 0, 1)["text"] is batch["text"]


def test_pairs_stay_together_and_the_mesh_changes_nothing():
    batch = {task: made_batch("token_mean") for task in ("image", "text")}
    on_one = minibatches("token_mean")(batch, 1, 1)
    np.testing.assert_array_equal(*(part.tokens for part in on_one.values()))

    # On eight devices a prompt has two rows of one sample each.
    on_mesh = minibatches("token_mean", repeats=2, devices=8)
    spread = on_mesh({"text": made_batch("token_mean", repeats=2)}, 1, 1)["text"]
    assert len(spread.tokens.sharding.device_set) == 8
    assert spread.tokens.addressable_shards[0].data.shape == (1, 1, LENGTH)
    for name in ("tokens", "weights", "advantages"):
        one, many = (np.ravel(vars(part)[name]) for part in (on_one["text"], spread))
        np.testing.assert_allclose(many, one, rtol=1e-6, err_msg=name)


def test_a_step_of_two_epochs(take_step):
    """The log-probs of the policy that sampled are replayed, so that only update 1 has ratio 1."""
    step = take_step(**{"updates_per_step": 4, "rl.rollout.minibatches": 2})
    assert len(step.batches) == 4 and step.stage.total_updates == 8
    rows = {}
    for part in step.batches:
        assert part["text"].tokens.shape == (4, 2, 4)
        assert float(part["text"].weights.sum()) == pytest.approx(1, rel=1e-5)
        for row, tokens in enumerate(np.asarray(part["text"].prompts.tokens)):
            old = np.asarray(part["text"].old_log_probs[row])
            np.testing.assert_array_equal(rows.setdefault(tokens.tobytes(), old), old)
    assert len(rows) == len(
        {tokens.tobytes() for tokens in np.asarray(step.raw["text"].prompts.tokens)}
    )

    stage = step.stage
    with sharding_context(stage.setup.sharder):
        state = stage.init_state()
        update = make_update(stage.loss, stage.update_algo_state, step.optimizer, 1, state)
        differs = []
        for part in step.batches:
            state, metrics = apply_update(update, state, part)
            ratio = metrics["text/ratio"]
            assert float(ratio.weight) == np.asarray(part["text"].mask).sum()
            differs.append(abs(float(ratio.value) - 1) > 1e-4)
    assert differs == [False, True, True, True]
    assert int(state.step) == 4
