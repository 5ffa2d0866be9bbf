"""Evaluation before and after a run of reinforcement learning, with galleries.

The records are held out from training. Writes ``eval.json``, ``samples/gallery_*.png``,
``samples/gallery_*.json`` and ``samples/answers_*.json`` into the work directory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.files import write_json
from corl_jax.core.types import Params
from corl_jax.engine.checkpoints.handoff import load_params
from corl_jax.engine.checkpoints.step_folders import saved_steps
from corl_jax.engine.trackers.collection import Trackers
from corl_jax.engine.workdir import Workdir
from corl_jax.evals.gallery import write_gallery
from corl_jax.evals.statistics import Estimates
from corl_jax.stages.rl.evaluation import HeldOutEvaluation
from corl_jax.stages.setup import Setup

EVAL_FILE = "eval.json"


def is_evaluated(workdir: Workdir, steps: int) -> bool:
    """Whether the policy after ``steps`` steps has been evaluated.

    Raises:
      UserError: ``eval.json`` is damaged.
    """
    # A run that was extended has an "after" of fewer steps.
    path = workdir.path / EVAL_FILE
    return path.exists() and JsonObject.read(path).entries.get("after_step") == steps


@dataclasses.dataclass(frozen=True)
class RunEvaluation:
    """Evaluates the policy that a run starts from and the policy that it ends with.

    What ``eval.json`` contains already, from a run that was interrupted, is not measured again.

    Attributes:
      setup: of the run.
      workdir: of the run.
      evaluation: measures a policy on held-out records.
      steps: length of the run.
      trackers: that show the results, too.
    """

    setup: Setup
    workdir: Workdir
    evaluation: HeldOutEvaluation
    steps: int
    trackers: Trackers = dataclasses.field(default_factory=Trackers)

    @property
    def path(self) -> Path:
        """``eval.json``."""
        return self.workdir.path / EVAL_FILE

    def evaluate_before(self) -> None:
        """Evaluates the policy that the run starts from."""
        if "before" in self._read():
            return
        params = self.setup.rollout_params(self.setup.load_params())
        self._write({"before": self._evaluate(params, "before", 0)})

    def evaluate_after(self) -> None:
        """Evaluates the policy of the last checkpoint."""
        if is_evaluated(self.workdir, self.steps):
            return
        last_step = saved_steps(self.workdir.checkpoints)[-1]
        checkpoint = self.workdir.checkpoints / str(last_step)
        params = self.setup.rollout_params(load_params(checkpoint, self.setup.param_specs))
        metrics = self._evaluate(params, "after", self.steps)
        entries = {"after": metrics, "after_step": self.steps}
        self._write(entries | {"guidance": self.evaluation.guidance_scale})

    def _evaluate(self, params: Params, name: str, step: int) -> Estimates:
        """Metrics of the policy with ``params``; its gallery is written under ``name``."""
        # All processes sample together; only the first one reports and writes.
        metrics, gallery = self.evaluation(params, f"evaluating {name} training")
        if jax.process_index() == 0:
            write_gallery(self.workdir.samples, name, gallery)
            values = {metric: estimate["value"] for metric, estimate in metrics.items()}
            self.trackers.write_evaluation(name, step, values)
        return metrics

    def _read(self) -> dict[str, Any]:
        return dict(JsonObject.read(self.path).entries) if self.path.exists() else {}

    def _write(self, entries: Mapping[str, Any]) -> None:
        """Adds ``entries`` to ``eval.json``, on the first process only."""
        if jax.process_index() > 0:
            return
        write_json(self.path, self._read() | dict(entries))
        self.workdir.push()
