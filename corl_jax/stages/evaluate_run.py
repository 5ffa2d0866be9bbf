"""Evaluation before and after a run of reinforcement learning, with galleries and a report.

The records are held out from training. Writes ``eval.json``, ``samples/gallery_*.png``,
``samples/gallery_*.json``, ``samples/answers_*.json`` and ``report.html`` into the work directory.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.files import write_json
from corl_jax.core.provenance import machine, versions
from corl_jax.core.types import Params
from corl_jax.engine.checkpoints.handoff import load_params
from corl_jax.engine.checkpoints.step_folders import saved_steps
from corl_jax.engine.workdir import Workdir
from corl_jax.evals.gallery import write_gallery
from corl_jax.evals.statistics import Estimates
from corl_jax.report.page import write_report
from corl_jax.stages.rl.evaluation import HeldOutEvaluation
from corl_jax.stages.setup import Setup

EVAL_FILE = "eval.json"


def is_evaluated(workdir: Workdir, steps: int) -> bool:
    """Whether the policy after ``steps`` steps has been evaluated, and the facts of its run are there.

    Raises:
      UserError: ``eval.json`` is damaged.
    """
    path = workdir.path / EVAL_FILE
    entries = JsonObject.read(path).entries if path.exists() else {}
    return "run" in entries and entries.get("after_step") == steps


@dataclasses.dataclass(frozen=True)
class RunEvaluation:
    """Evaluates the policy that a run starts from and the policy that it ends with.

    What ``eval.json`` contains already, from a run that was interrupted, is not measured again.

    Attributes:
      setup: of the run.
      workdir: of the run.
      evaluation: measures a policy on held-out records.
      steps: length of the run.
    """

    setup: Setup
    workdir: Workdir
    evaluation: HeldOutEvaluation
    steps: int

    @property
    def path(self) -> Path:
        """``eval.json``."""
        return self.workdir.path / EVAL_FILE

    def evaluate_before(self) -> None:
        """Evaluates the policy that the run starts from, and notes the time of the start."""
        if "before" in self._read():
            return
        # The clock starts before the first evaluation: the report gives the time of everything.
        started = time.time()
        params = self.setup.rollout_params(self.setup.load_params())
        metrics = self._evaluate(params, "before")
        self._write({"before": metrics, "started": started})

    def evaluate_after(self) -> None:
        """Evaluates the policy of the last checkpoint, then writes the report."""
        # A run that was extended has an "after" of fewer steps, which is measured anew.
        if self._read().get("after_step") != self.steps:
            last_step = saved_steps(self.workdir.checkpoints)[-1]
            checkpoint = self.workdir.checkpoints / str(last_step)
            params = self.setup.rollout_params(load_params(checkpoint, self.setup.param_specs))
            metrics = self._evaluate(params, "after")
            entries = {"after": metrics, "after_step": self.steps}
            entries |= {"guidance": self.evaluation.guidance_scale, "run": self._run_facts()}
            self._write(entries)
        # An older version was killed between two writes.
        elif "run" not in self._read():
            self._write({"run": self._run_facts()})

        if jax.process_index() == 0:
            write_report(self.workdir.path)
            self.workdir.push()

    def _evaluate(self, params: Params, name: str) -> Estimates:
        """Metrics of the policy with ``params``; its gallery is written under ``name``."""
        # All processes sample together; only the first one reports and writes.
        metrics, gallery = self.evaluation(params, name)
        if jax.process_index() == 0:
            write_gallery(self.workdir.samples, name, gallery)
        return metrics

    def _run_facts(self) -> dict[str, Any]:
        """Command, date, duration, machine and versions, for the head of the report."""
        # The other processes may have no eval.json to read the start from, and they write nothing.
        if jax.process_index() > 0:
            return {}
        seconds = time.time() - JsonObject.read(self.path).number("started")
        return {
            "command": " ".join(["python -m corl_jax.main", *sys.argv[1:]]),
            "date": time.strftime("%Y-%m-%d"),
            "seconds": round(seconds, 1),
            "machine": machine(),
            "versions": versions(),
        }

    def _read(self) -> dict[str, Any]:
        return dict(JsonObject.read(self.path).entries) if self.path.exists() else {}

    def _write(self, entries: Mapping[str, Any]) -> None:
        """Adds ``entries`` to ``eval.json``, on the first process only."""
        if jax.process_index() > 0:
            return
        write_json(self.path, self._read() | dict(entries))
        self.workdir.push()
