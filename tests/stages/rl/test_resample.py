"""Dynamic sampling: groups without signal are replaced by groups of other prompts.

Which ones are replaced, by which, that all parts of a group stay together, that nothing compiles
anew, and that a mesh changes nothing.
"""

from __future__ import annotations

import dataclasses
import zlib

import jax
import numpy as np
import pytest

from corl_jax.core.sharding import sharding_context
from corl_jax.core.types import Params
from corl_jax.rewards.base import rewards
from corl_jax.sampling import generate
from corl_jax.stages.rl import resample
from corl_jax.stages.rl.resample import replacements
from corl_jax.stages.rl.reward_step import ScoredRollouts

RESAMPLE = {
    "image": "constant_or_redness",
    "text": "constant_or_letters",
    "rl.advantage.resample_rounds": 1,
}
CONSTANT = {"every": 2}
"""One record in so many has the same reward whatever is sampled; 0 for none. Tests change it."""


def is_constant(record):
    """Whether all samples of ``record`` get one reward, so that its group has no signal."""
    return CONSTANT["every"] > 0 and zlib.crc32(record.id.encode()) % CONSTANT["every"] == 0


@pytest.fixture(scope="module", autouse=True)
def partly_constant_rewards(varied_rewards):
    """Rewards that are 0.5 for every sample of some records."""

    def partly_constant(value):
        return lambda cs, context: np.array(
            [0.5 if is_constant(c.record) else value(c) for c in cs]
        )

    rewards.register("constant_or_redness")(
        partly_constant(lambda c: c.pixels[..., 0].mean() / 255)
    )
    rewards.register("constant_or_letters")(
        partly_constant(lambda c: zlib.crc32(c.text.encode()) % 997 / 997)
    )


@pytest.fixture
def set_constant_every():
    """A function that changes how many records have constant rewards, while a test runs."""
    yield lambda every: CONSTANT.update(every=every)
    CONSTANT.update(every=2)


@dataclasses.dataclass(frozen=True)
class Resampled:
    """A first step (``FirstStep``), the parameters that sampled, and its rollouts before and after
    dynamic sampling."""

    step: object
    params: Params
    before: ScoredRollouts
    after: ScoredRollouts


@pytest.fixture(scope="module")
def resample_step(take_step):
    """A function from overrides to a first step with dynamic sampling."""

    def make(devices=1, **overrides):
        step = take_step(devices, **RESAMPLE | overrides)
        stage = step.stage
        with sharding_context(stage.setup.sharder):
            state = stage.init_state()
            params = stage.setup.rollout_params(state.params)
            batch = stage.rollout_sampler.step_rollouts(state, params, step.raw, 0)
            before = stage.reward_scorer.score_rollouts(params, batch)
            return Resampled(step, params, before, stage.dynamic_sampling(params, before))

    return make


def record_ids(scored, task):
    return [record.id for record in scored.batch.prompts[task].records]


def test_replacements_are_taken_in_order():
    missing, available = np.array([0, 1, 0, 1, 1], bool), np.array([0, 0, 1, 1, 0], bool)
    np.testing.assert_array_equal(replacements(missing, available), [-1, 2, -1, 3, -1])
    np.testing.assert_array_equal(replacements(missing, ~available), [-1, 0, -1, 1, 4])
    np.testing.assert_array_equal(replacements(~missing, missing * False), [-1] * 5)


def assert_parts_match(resampled):
    """Prompts, records, samples on mesh and host, and rewards belong together, row by row."""
    scorer, scored = resampled.step.stage.reward_scorer, resampled.after
    for task, prompt_batch in scored.batch.prompts.items():
        expected = scorer.tasks[task].make_prompts(prompt_batch.records)
        np.testing.assert_array_equal(prompt_batch.prompts.tokens, expected.prompts.tokens)
        np.testing.assert_array_equal(prompt_batch.prompts.mask, expected.prompts.mask)
        if task == "text":
            np.testing.assert_array_equal(prompt_batch.prompts.images, expected.prompts.images)

        rollout, local_rollout = scored.batch.rollouts[task], scored.local_rollouts[task]
        jax.tree.map(np.testing.assert_array_equal, local_rollout, rollout)
        task_rewards = scorer.score_task(resampled.params, task, prompt_batch, local_rollout)
        np.testing.assert_array_equal(task_rewards.total, scored.rewards[task].total)
        np.testing.assert_array_equal(task_rewards.matrix, scored.rewards[task].matrix)


def test_groups_without_signal_are_replaced_and_others_stay(resample_step):
    resampled = resample_step()
    step, before, after = resampled.step, resampled.before, resampled.after
    assert_parts_match(resampled)
    for task in ("image", "text"):
        old, new = before.batch.prompts[task].records, after.batch.prompts[task].records
        missing = np.array([is_constant(record) for record in old])
        assert 0 < missing.sum() < 8

        # Records of the round with signal take the places in order, as far as they go.
        round_records = step.stage.dynamic_sampling.round_records(0, 1)[: len(old)]
        available = [record.id for record in round_records if not is_constant(record)]
        replacement = iter(available)
        expected_ids = [
            next(replacement, record.id) if is_missing else record.id
            for record, is_missing in zip(old, missing, strict=True)
        ]
        assert [record.id for record in new] == expected_ids

        # Groups without signal that remain, and the metrics that tell of them.
        replaced = min(missing.sum(), len(available))
        constant_share = np.mean([is_constant(record) for record in new])
        assert constant_share == (missing.sum() - replaced) / 8
        assert after.metrics[f"{task}/resampled"] == replaced / 8
        assert after.metrics["resample/rounds"] == 1
        assert step.host_metrics[f"{task}/resampled"] == replaced / 8
        assert step.host_metrics[f"{task}/zero_std_groups"] == constant_share

        # The update trains on them; reference log-probs are those of the new samples.
        old_tokens, new_tokens = (
            np.asarray(scored.batch.rollouts[task].tokens) for scored in (before, after)
        )
        np.testing.assert_array_equal(new_tokens[~missing], old_tokens[~missing])
        part = step.batches[0][task]
        np.testing.assert_array_equal(part.tokens, new_tokens)
        assert np.any(part.advantages, 1).mean() == 1 - constant_share
        np.testing.assert_allclose(part.ref_log_probs, part.sampler_log_probs, atol=1e-4)


def test_pairs_are_replaced_as_pairs(resample_step):
    resampled = resample_step(**{"rl.advantage.pairing": "unified"})
    after = resampled.after
    assert_parts_match(resampled)
    assert record_ids(after, "image") == record_ids(after, "text")
    assert record_ids(after, "image") != record_ids(resampled.before, "image")
    assert after.metrics["image/resampled"] == after.metrics["text/resampled"] > 0


def test_only_tasks_without_signal_are_sampled_again_for_all_rounds(
    resample_step, set_constant_every
):
    """Every answer has one reward, so that no round can replace a group of text."""
    set_constant_every(1)
    resampled = resample_step(image="redness", **{"rl.advantage.resample_rounds": 3})
    step, after = resampled.step, resampled.after
    assert after.metrics == {"resample/rounds": 3.0, "image/resampled": 0.0, "text/resampled": 0.0}
    assert record_ids(after, "text") == record_ids(resampled.before, "text")
    assert step.host_metrics["text/zero_std_groups"] == 1
    assert step.host_metrics["image/zero_std_groups"] == 0

    # Each round of each step reads records of its own.
    round_records = step.stage.dynamic_sampling.round_records
    rounds = [round_records(0, round_number).rows for round_number in (1, 2, 3)]
    assert len(set(rounds)) == 3 and rounds[0] != round_records(1, 1).rows


def test_two_devices_resample_as_one_and_compile_nothing_anew(resample_step, set_constant_every):
    """Three questions do not divide over two devices, so each has two rows of half its samples."""
    few = {"rl.rollout.image_prompts": 0, "rl.rollout.text_prompts": 3, "mesh.data": 1}
    one_device = resample_step(1, **few | {"mesh.fsdp": 1})
    two_devices = resample_step(2, **few | {"mesh.fsdp": 2})
    single, sharded = one_device.after, two_devices.after
    tokens = sharded.batch.rollouts["text"].tokens
    np.testing.assert_array_equal(np.ravel(tokens), np.ravel(single.batch.rollouts["text"].tokens))
    assert tokens.shape[:2] == (6, 1) and tokens.addressable_shards[0].data.shape[0] == 3
    np.testing.assert_array_equal(sharded.rewards["text"].total, single.rewards["text"].total)
    repeated_ids = [name for name in record_ids(single, "text") for _ in range(2)]
    assert record_ids(sharded, "text") == repeated_ids
    assert single.metrics == sharded.metrics and single.metrics["text/resampled"] > 0

    # Further steps run the same programs, with groups to replace and without any.
    programs = (generate._sample_text, generate._log_probs, resample._replace_rows)
    cache_sizes = [program._cache_size() for program in programs]
    stage = two_devices.step.stage
    with sharding_context(stage.setup.sharder):
        for step, every in ((1, 2), (2, 0)):
            set_constant_every(every)
            _, metrics = next(stage.batches(stage.init_state(), two_devices.step.raw, step))
            assert metrics["resample/rounds"] == (1 if every else 0)
    assert [program._cache_size() for program in programs] == cache_sizes
