"""The evaluation of a run that was killed in the middle of it, and what the trackers get of it."""

from __future__ import annotations

import json

import pytest

from corl_jax.engine.trackers.collection import Trackers
from corl_jax.engine.workdir import open_workdir
from corl_jax.evals.gallery import Gallery
from corl_jax.stages import evaluate_run
from corl_jax.stages.evaluate_run import RunEvaluation


@pytest.mark.parametrize("steps", [2, 3])
def test_what_is_missing_after_the_training_is_added(tmp_path, monkeypatch, steps):
    """``after`` of so many steps is not measured again."""
    workdir = open_workdir(tmp_path / "w", {"steps": steps})
    (workdir.checkpoints / str(steps)).mkdir()
    before = {"before": {}, "after": {"a": 1}, "after_step": 2, "guidance": 1.0}
    (workdir.path / "eval.json").write_text(json.dumps(before))
    monkeypatch.setattr(evaluate_run, "load_params", lambda *args: {})

    class Setup:
        param_specs = None

        def rollout_params(self, params):
            return params

    labels, tracked = [], []

    class Evaluation:
        guidance_scale = 1.0

        def __call__(self, params, label):
            labels.append(label)
            return {"a": {"value": 2}}, Gallery(1.0, 1, (), None, None, (), ())

    class NotedTrackers(Trackers):
        def write_evaluation(self, side, step, metrics):
            tracked.append((side, step, metrics))

    evaluation = RunEvaluation(Setup(), workdir, Evaluation(), steps, NotedTrackers())
    assert evaluation.is_complete() is (steps == 2)
    evaluation.evaluate_after()
    evaluation.evaluate_after()
    assert evaluation.is_complete()
    entries = json.loads((workdir.path / "eval.json").read_text())
    assert labels == (["evaluating after training"] if steps == 3 else [])
    assert tracked == ([("after", 3, {"a": 2})] if steps == 3 else [])
    assert entries["after"] == ({"a": {"value": 2}} if steps == 3 else {"a": 1})
