"""A run that was stopped and resumed equals a run that never stopped, bit for bit."""

from __future__ import annotations

import pytest
from helpers import metric_rows, train_and_stop

from corl_jax.engine.checkpoints.manifest import read_manifest
from corl_jax.engine.checkpoints.step_folders import saved_steps
from corl_jax.stages.run import run

CHANGES = {
    "one_step_off_policy": {
        "rl.rollout.one_step_off_policy": True,
        "rl.loss.importance_cap": 2.0,
        "rl.loss.image_credit": "third",
        "rl.loss.entropy_target": {"image": 3.0, "text": 1.0},
        "rl.loss.entropy_rate": 1e-3,
    },
    "following_reference": {
        "text": "tens",
        "rl.advantage.resample_rounds": 1,
        "rl.reference.update_every": 2,
        "rl.reference.mix": 0.5,
        "rl.external.image": "record_image",
    },
    "plan_and_check": {
        "rl.plan.length": 4,
        "rl.plan.prompt_length": 32,
        "rl.rollout.image_prompt_length": 24,
        "rl.check.prompts": 4,
        "rl.check.reward": "redness",
        "rl.check.prompt_length": 48,
    },
    "minibatches": {
        "updates_per_step": 4,
        "rl.rollout.minibatches": 2,
        "text": {"letters": 1.0, "tens": 0.5, "overlong": 0.5},
        "rewards.options.overlong_buffer": 2,
        "rl.advantage.multi_objective_aggregation": "normalize_then_sum",
        "rl.loss.clip": "gspo",
    },
    "curriculum": {
        "text": "tens",
        "data.mixture": {
            "counts": {"source": "shapes", "question_kinds": ["count"], "limit": 8},
            "others": {
                "source": "shapes",
                "qa_type": "MC",
                "template": "{question}",
                "image_weight": [1, 3],
                "text_weight": [1, 3],
            },
        },
        "data.stages": [2],
        "rl.curriculum.success": {"image": "", "text": "tens"},
        "rl.curriculum.success_at": 3.0,
        "rl.curriculum.difficulty": ["hard", "medium"],
        "rl.curriculum.history": "unsolved",
    },
    "likelihood_in_words": {
        "image": "redness+prompt_likelihood",
        "text": "letters+picture_likelihood",
        "rl.rollout.question_pictures": False,
        "data.template": "a picture of {prompt}.\n{question}",
        "hooks.completions_every": 2,
    },
}
"""Changes of the config whose runs have more to remember than parameters."""


@pytest.mark.parametrize("variant", CHANGES)
def test_stopped_and_resumed_equals_never_stopped(rl_config, small_world, tmp_path, variant):
    config = rl_config(**{"steps": 4, "hooks.save_every": 2} | CHANGES[variant])
    unbroken, resumed = tmp_path / "unbroken", tmp_path / "resumed"
    with small_world():
        run(config, unbroken)

        # Stopped after step 3, of which nothing is saved.
        train_and_stop(config, resumed, 3)
        assert [row["step"] for row in metric_rows(resumed)][-1] == 3
        assert saved_steps(resumed / "checkpoints") == [2]

        run(config, resumed)
        rows = metric_rows(unbroken)
        assert metric_rows(resumed) == rows
        assert [row["step"] for row in rows] == [1, 2, 3, 4]
        manifests = [
            read_manifest(workdir / "checkpoints" / "4") for workdir in (unbroken, resumed)
        ]
        assert manifests[0] == manifests[1] and manifests[0].params_digest is not None

        # The run is complete, so the same command does nothing.
        before = (resumed / "metrics.jsonl").read_bytes()
        run(config, resumed)
        assert (resumed / "metrics.jsonl").read_bytes() == before

    # What is compared is alive.
    columns = {"image/kl", "text/kl", "image/reward/redness", "text/sampler_logp_diff"}
    assert columns <= set(rows[0])
    assert any(row["text/kl"] > 0 for row in rows)
    if variant == "one_step_off_policy":
        for task in ("image", "text"):
            coefficients = [row[f"{task}/entropy_coefficient"] for row in rows]
            assert coefficients[0] == 0 and len(set(coefficients)) == 4
        assert all(-1 < row["image/group_similarity"] < 1 for row in rows)
    if variant == "following_reference":
        assert len({row["image/external_log_prob"] for row in rows}) == 4
        assert any(row["text/resampled"] for row in rows[2:])
    if variant == "plan_and_check":
        assert any(row["plan/kl"] > 0 for row in rows) and "check/said_yes" in rows[0]
    if variant == "curriculum":
        assert 0 < min(row["curriculum/unsolved"] for row in rows) < 1
        assert any(0 < row["text/success"] < 1 for row in rows)
        assert len({row["text/difficulty_weight"] for row in rows}) > 1
    if variant == "likelihood_in_words":
        assert 0 < rows[-1]["text/reward/picture_likelihood"] < 1
        assert 0 < rows[-1]["image/reward_std_share/prompt_likelihood"] < 1
    if variant == "minibatches":
        assert any(0 < row["text/clip_fraction"] < 1 for row in rows)
        assert all(row["text/sampler_logp_diff"] > 1e-4 for row in rows)
        return
    is_off_policy = variant == "one_step_off_policy"
    differs = [row["text/sampler_logp_diff"] > 1e-4 for row in rows]
    assert differs == [False, is_off_policy, is_off_policy, is_off_policy]
