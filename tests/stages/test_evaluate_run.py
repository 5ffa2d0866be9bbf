"""The evaluation of a run that was killed in the middle of it."""

from __future__ import annotations

import json
import types

import pytest

from corl_jax.engine.workdir import open_workdir
from corl_jax.stages import evaluate_run
from corl_jax.stages.evaluate_run import RunEvaluation


@pytest.mark.parametrize("steps", [2, 3])
def test_what_is_missing_after_the_training_is_added(tmp_path, monkeypatch, steps):
    """``after`` of so many steps is not measured again; facts of the run that lack are written."""
    workdir = open_workdir(tmp_path / "w", {"steps": steps})
    (workdir.checkpoints / str(steps)).mkdir()
    before = {"before": {}, "started": 1.0, "after": {"a": 1}, "after_step": 2, "guidance": 1.0}
    (workdir.path / "eval.json").write_text(json.dumps(before))

    reports, measured = [], []
    monkeypatch.setattr(evaluate_run, "write_report", reports.append)
    monkeypatch.setattr(evaluate_run, "load_params", lambda *args: {})
    monkeypatch.setattr(
        RunEvaluation, "_evaluate", lambda self, params, name: measured.append(name) or {"a": 2}
    )

    class Setup:
        param_specs = None

        def rollout_params(self, params):
            return params

    measured_with = types.SimpleNamespace(guidance_scale=1.0)
    evaluation = RunEvaluation(Setup(), workdir, measured_with, steps)
    evaluation.evaluate_after()
    evaluation.evaluate_after()
    entries = json.loads((workdir.path / "eval.json").read_text())
    assert entries["run"]["seconds"] > 0 and "command" in entries["run"]
    assert measured == (["after"] if steps == 3 else [])
    assert entries["after"] == ({"a": 2} if steps == 3 else {"a": 1})
    assert reports == [workdir.path] * 2
