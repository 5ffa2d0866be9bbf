"""Groups without signal make room for others: which, from where, consistently, at no new program, on any mesh."""

from __future__ import annotations

import zlib

import jax
import numpy as np
import pytest

from corl_jax.core.sharding import sharding_context
from corl_jax.rewards.base import rewards
from corl_jax.sampling import generate
from corl_jax.stages.rl.resample import replacements
from corl_jax.stages.rl.stage import resample

PICKY = {"image": "picky_redness", "text": "picky_letters", "rl.refill": 1}
MUTED = {"share": 2}
"""Records whose number divides by this have rewards that are all the same; 0 for none."""


def mute(record):
    return MUTED["share"] > 0 and zlib.crc32(record.id.encode()) % MUTED["share"] == 0


@pytest.fixture(scope="module", autouse=True)
def picky_rewards(telling_rewards):
    def picky(value):
        return lambda cs, context: np.array([0.5 if mute(c.record) else value(c) for c in cs])

    rewards.register("picky_redness")(picky(lambda c: c.pixels[..., 0].mean() / 255))
    rewards.register("picky_letters")(picky(lambda c: zlib.crc32(c.text.encode()) % 997 / 997))


@pytest.fixture
def muted():
    """A function that changes how many records are mute, for the length of a test."""
    yield lambda share: MUTED.update(share=share)
    MUTED.update(share=2)


@pytest.fixture(scope="module")
def refill(take_step):
    """A function from overrides to a stage, and its first rollouts before and after refilling."""

    def make(devices=1, **overrides):
        step = take_step(devices, **PICKY | overrides)
        stage = step.stage
        with sharding_context(stage.parts.sharder):
            state = stage.init()
            params = stage.parts.for_rollout(state.params)
            before = stage.judge.judged(params, stage.rollouts.drawn(state, params, step.raw, 0))
            return step, params, before, stage.refill(params, before)

    return make


def test_the_first_hole_takes_the_first_offer():
    holes, offers = np.array([0, 1, 0, 1, 1], bool), np.array([0, 0, 1, 1, 0], bool)
    np.testing.assert_array_equal(replacements(holes, offers), [-1, 2, -1, 3, -1])
    np.testing.assert_array_equal(replacements(holes, ~offers), [-1, 0, -1, 1, 4])
    np.testing.assert_array_equal(replacements(~holes, holes * False), [-1] * 5)


def same(stage, params, judged):
    """Prompts, records, samples on the mesh and on the host, and rewards belong together, row by row."""
    for task, asked in judged.drawn.asked.items():
        again = stage.judge.tasks[task].ask(asked.records)
        np.testing.assert_array_equal(asked.prompts.tokens, again.prompts.tokens)
        np.testing.assert_array_equal(asked.prompts.mask, again.prompts.mask)
        if task == "text":
            np.testing.assert_array_equal(asked.prompts.images, again.prompts.images)
        rollout = judged.drawn.rollouts[task]
        jax.tree.map(np.testing.assert_array_equal, judged.own[task], rollout)
        found = stage.judge.score(params, task, asked, judged.own[task])
        np.testing.assert_array_equal(found.total, judged.scores[task].total)
        np.testing.assert_array_equal(found.matrix, judged.scores[task].matrix)


def test_silent_groups_are_replaced_and_others_stay(refill):
    step, params, before, after = refill()
    same(step.stage, params, after)
    for task in ("image", "text"):
        old, new = before.drawn.asked[task].records, after.drawn.asked[task].records
        holes = np.array([mute(record) for record in old])
        assert 0 < holes.sum() < 8
        further = step.stage.refill.records(0, 1)[: len(old)]
        offers = [record.id for record in further if not mute(record)]
        want = iter(offers)
        expected = [
            next(want, record.id) if hole else record.id
            for record, hole in zip(old, holes, strict=True)
        ]
        assert [record.id for record in new] == expected
        left = np.mean([mute(record) for record in new])
        taken = min(holes.sum(), len(offers))
        assert left == (holes.sum() - taken) / 8
        tokens = [np.asarray(judged.drawn.rollouts[task].tokens) for judged in (before, after)]
        np.testing.assert_array_equal(tokens[1][~holes], tokens[0][~holes])
        assert after.said[f"{task}/resampled"] == taken / 8 and after.said["resample/rounds"] == 1
        part = step.batches[0][task]
        np.testing.assert_array_equal(part.tokens, tokens[1])
        assert (
            np.any(part.advantages, 1).mean()
            == 1 - left
            == 1 - step.host[f"{task}/zero_std_groups"]
        )
        assert step.host[f"{task}/resampled"] == taken / 8
        np.testing.assert_allclose(
            part.ref_log_probs, part.sampler_log_probs, atol=1e-4
        )  # of what is trained on


def test_pairs_are_replaced_as_pairs(refill):
    step, params, before, after = refill(**{"rl.pairing": "unified"})
    same(step.stage, params, after)
    image, text = (after.drawn.asked[task].records for task in ("image", "text"))
    assert [record.id for record in image] == [record.id for record in text]
    assert [record.id for record in image] != [
        record.id for record in before.drawn.asked["image"].records
    ]
    assert after.said["image/resampled"] == after.said["text/resampled"] > 0


def test_only_tasks_with_silent_groups_are_drawn_again_and_no_more_often_than_allowed(
    refill, muted
):
    muted(1)
    step, _, before, after = refill(image="redness", **{"rl.refill": 3})
    assert after.said == {"resample/rounds": 3.0, "image/resampled": 0.0, "text/resampled": 0.0}
    assert [record.id for record in after.drawn.asked["text"].records] == [
        record.id for record in before.drawn.asked["text"].records
    ]
    assert step.host["text/zero_std_groups"] == 1 and step.host["image/zero_std_groups"] == 0
    rounds = [step.stage.refill.records(0, i).rows for i in (1, 2, 3)]
    assert len(set(rounds)) == 3 and rounds[0] != step.stage.refill.records(1, 1).rows


def test_two_devices_refill_as_one_and_compile_nothing_twice(refill, muted):
    """Three questions do not divide over them, so each is there twice, with half of its samples."""
    few = {"rl.pictures": 0, "rl.questions": 3, "mesh.data": 1}
    alone, spread = (refill(devices, **few | {"mesh.fsdp": devices}) for devices in (1, 2))
    one, many = (found[3].drawn.rollouts["text"].tokens for found in (alone, spread))
    np.testing.assert_array_equal(np.ravel(many), np.ravel(one))
    assert many.shape[:2] == (6, 1) and many.addressable_shards[0].data.shape[0] == 3
    np.testing.assert_array_equal(spread[3].scores["text"].total, alone[3].scores["text"].total)
    held = [
        [record.id for record in found[3].drawn.asked["text"].records] for found in (alone, spread)
    ]
    assert held[1] == [name for name in held[0] for _ in range(2)]
    assert alone[3].said == spread[3].said and alone[3].said["text/resampled"] > 0
    stage, programs = spread[0].stage, (generate._write, generate._score, resample._taken)
    compiled = [program._cache_size() for program in programs]
    with sharding_context(stage.parts.sharder):
        for step, share in ((1, 2), (2, 0)):  # with holes, and without any
            muted(share)
            _, said = next(stage.batches(stage.init(), spread[0].raw, step))
            assert said["resample/rounds"] == (1 if share else 0)
    assert [program._cache_size() for program in programs] == compiled
