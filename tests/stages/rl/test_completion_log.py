"""Samples of a step for people: they are those of the step, and writing them changes no number."""

from __future__ import annotations

import types

import numpy as np
import pytest
from helpers import metric_rows

from corl_jax.core.types import PromptBatch, Record, Rewards, Rollout
from corl_jax.engine.checkpoints.manifest import read_manifest
from corl_jax.engine.completions import read_completions, saved_steps
from corl_jax.stages.config import HooksConfig
from corl_jax.stages.rl.completion_log import CompletionLog
from corl_jax.stages.run import run
from corl_jax.tasks.text_to_image import TextToImage

GROUP = 2


def test_samples_are_those_of_the_step(first):
    """Two prompts of each task, with the rewards and advantages that train."""
    samples = first.stage.completion_log.run(1, None).samples
    assert [sample.task for sample in samples] == ["image"] * 4 + ["text"] * 4
    assert [sample.sample for sample in samples] == [0, 1] * 4

    tokenizer = first.stage.setup.tokenizer
    for task, start, reward in (("image", 0, "redness"), ("text", 4, "letters")):
        part, rollout = first.batches[0][task], first.rollouts[task]
        records = first.raw[task].records
        for place, sample in enumerate(samples[start : start + 4]):
            index = place // GROUP, place % GROUP
            assert sample.record_id == records[index[0]].id
            assert sample.advantage == pytest.approx(float(part.advantages[index]))
            assert sample.rewards == {reward: pytest.approx(sample.reward)}
            if task == "image":
                assert sample.prompt == records[index[0]].prompt
                assert np.array_equal(sample.pixels, rollout.pixels[index])
                assert sample.reward == pytest.approx(sample.pixels[..., 0].mean() / 255)
                continue
            tokens = np.asarray(rollout.tokens[index])[np.asarray(rollout.mask[index])]
            assert sample.completion == tokenizer.decode(tokens)
            assert sample.prompt == records[index[0]].question
            assert sample.reference_answer == records[index[0]].answer
            assert np.array_equal(sample.prompt_pixels, records[index[0]].image)


def test_the_second_of_two_processes_with_half_of_each_group():
    """Two prompts of four samples on four devices; this process has the rows 1 and 3."""
    records = [Record(f"r{i}", f"caption {i}", None, "", "", "OE") for i in (0, 1)]
    numbers = np.arange(8).reshape(4, 2)[[1, 3]]
    pixels = np.broadcast_to(numbers[..., None, None, None], (2, 2, 4, 4, 3)).astype(np.uint8)

    class Sampler:
        cfg = types.SimpleNamespace(
            rollout=types.SimpleNamespace(prompts={"image": 2}, group_size=4)
        )

        def row_prompts(self, part):
            return [0, 1]

        def local_values(self, task, values):
            return values.reshape(4, 2)[[1, 3]]

    hooks = HooksConfig(completions_groups=2)
    log = CompletionLog(hooks, 9, {"image": TextToImage(None)}, Sampler())
    zeros = np.zeros((2, 2, 1))
    log.remember(
        25,
        {"image": PromptBatch(None, tuple(records))},
        {"image": Rollout(zeros, zeros, zeros, pixels, "image")},
        {"image": Rewards(("a",), np.arange(8.0)[:, None], np.arange(8.0) / 2)},
        {"image": -np.arange(8.0).reshape(2, 4)},
    )
    samples = log.run(25, None).samples
    assert [(it.record_id, it.sample) for it in samples] == [
        ("r0", 2), ("r0", 3), ("r1", 2), ("r1", 3)]  # fmt: skip
    for sample, number in zip(samples, (2, 3, 6, 7), strict=True):
        assert (sample.pixels == number).all() and sample.rewards == {"a": number}
        assert (sample.reward, sample.advantage) == (number / 2, -number)


def test_writing_them_changes_no_number(rl_config, small_world, tmp_path):
    values = {"steps": 2, "hooks.keep_completions": 1, "text": "tens"}
    with small_world():
        for name, every in (("with", 1), ("without", 0)):
            config = rl_config(**values | {"hooks.completions_every": every})
            run(config, tmp_path / name)
    assert saved_steps(tmp_path / "with") == [2] and not saved_steps(tmp_path / "without")
    assert len(read_completions(tmp_path / "with", 2)) == 2 * 2 * GROUP
    assert metric_rows(tmp_path / "with") == metric_rows(tmp_path / "without")
    digests = [
        read_manifest(tmp_path / name / "checkpoints" / "2").params_digest
        for name in ("with", "without")
    ]
    assert digests[0] == digests[1]
