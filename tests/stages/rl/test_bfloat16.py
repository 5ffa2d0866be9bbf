"""Reinforcement learning in bfloat16 on the shipped base, at the guidance scale of full size."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import metric_rows

from corl_jax.configs import unified
from corl_jax.stages.run import run

FULL_SIZE = {
    "model.compute_dtype": "bfloat16",
    "model.remat": "full",
    "model.unroll": 1,
    "rl.rollout.guidance_scale": 5.0,
    "rl.log_probs.shared_prefix": ("image", "text"),
    "rl.log_probs.chunk_length": 12,
    "microbatches": 2,
}
SHORT = {
    "steps": 2,
    "updates_per_step": 2,
    "rl.rollout.image_prompts": 4,
    "rl.rollout.text_prompts": 4,
    "rl.rollout.group_size": 4,
    "evals.num_records": 0,
    "hooks.save_every": 0,
    "hooks.sample_every": 0,
    "hooks.probe_every": 0,
    "hooks.interference_every": 0,
}
KL = {
    f"kl.{task}.{name}": value
    for task in ("image", "text")
    for name, value in {"schedule": "constant", "start": 0.01, "end": 0.01}.items()
}


@pytest.fixture(scope="module")
def rows_at(tmp_path_factory):
    """A function from a learning rate to the rows of two steps."""

    def train(learning_rate):
        c = unified.get_config("tiny")
        c.update_from_flattened_dict(FULL_SIZE | SHORT | KL)
        c.optim.learning_rate = learning_rate
        c.optim.warmup_ratio = 0.0
        workdir = tmp_path_factory.mktemp("run")
        run(json.loads(c.to_json_best_effort()), workdir)
        return metric_rows(workdir)

    return train


def test_without_a_learning_rate_nothing_is_clipped_and_there_is_no_kl(rows_at):
    for row in rows_at(0.0):
        for task in ("image", "text"):
            assert row[f"{task}/clip_fraction"] == 0
            assert row[f"{task}/ratio"] == pytest.approx(1, abs=1e-4)
            assert abs(row[f"{task}/kl"]) < 1e-5
        # Up to .005 is usual; with roundings in other places it was .066.
        assert row["image/sampler_logp_diff"] < 0.02
        assert row["text/sampler_logp_diff"] < 1e-3


def test_a_step_trains(rows_at):
    first, second = rows_at(1e-4)
    assert np.isfinite([*first.values(), *second.values()]).all()
    assert first["skipped_updates"] == second["skipped_updates"] == 0
    assert 0 < second["image/kl"] < 1 and second["update_norm"] > 0
