"""What surrounds a reinforcement run: evaluation before and after on held-out records, galleries, the report.

In: an assembled run. Out: ``eval.json``, ``samples/gallery_*.png``, ``samples/answers_*.json``, ``report.html``.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from corl_jax.core.files import write_json
from corl_jax.core.provenance import machine, versions
from corl_jax.core.sharding import sharding_context
from corl_jax.core.types import Params
from corl_jax.data.pipeline import held_out_records
from corl_jax.engine.checkpoint import saved_steps
from corl_jax.engine.handoff import load_params
from corl_jax.engine.workdir import Workdir
from corl_jax.evals.gallery import gallery, write_gallery
from corl_jax.evals.runner import evaluate
from corl_jax.report.page import write_report
from corl_jax.stages.config import EvalSettings, block
from corl_jax.stages.setup import Setup, open_records


@dataclasses.dataclass(frozen=True)
class RunEvaluation:
    """Evaluates a run's policy at its two ends; what ``eval.json`` already holds is not measured again."""

    parts: Setup
    workdir: Workdir
    settings: EvalSettings
    held_out: tuple[Any, ...]
    guidance: float
    steps: int

    @classmethod
    def of(cls, config: Mapping[str, Any], parts: Setup, workdir: Workdir) -> RunEvaluation | None:
        """For a config with a block ``evals`` whose ``n`` is not 0."""
        if "evals" not in config or config["evals"]["n"] == 0:
            return None
        settings = block(EvalSettings, config["evals"], "evals")
        held_out = held_out_records(open_records(config, "test"), settings.n, settings.seed)
        guidances = tuple(dict.fromkeys((*settings.guidances, config["rl"]["guidance"])))
        settings = dataclasses.replace(settings, guidances=tuple(sorted(guidances)))
        return cls(parts, workdir, settings, held_out, config["rl"]["guidance"], config["steps"])

    @property
    def path(self) -> Path:
        """``eval.json``."""
        return self.workdir.path / "eval.json"

    def before(self) -> None:
        """The policy that was handed off; starts the run's clock."""
        if "before" not in self._read():
            started = time.time()
            self._write(
                {
                    "before": self._evaluate(self.parts.plain(self.parts.params()), "before"),
                    "started": started,
                }
            )

    def after(self) -> None:
        """The policy of the last checkpoint, then the report."""
        if self._read().get("after_step") != self.steps:
            newest = saved_steps(self.workdir.checkpoints)[-1]
            params = load_params(self.workdir.checkpoints / str(newest), self.parts.structs)
            numbers = self._evaluate(self.parts.plain(params), "after")
            self._write({"after": numbers, "after_step": self.steps, "guidance": self.guidance})
            self._write({"run": self._stamp()})
        if jax.process_index() == 0:
            write_report(self.workdir.path)
            self.workdir.publish()

    def _evaluate(self, params: Params, when: str) -> dict[str, Any]:
        sampler, tokenizer, s = self.parts.sampler, self.parts.tokenizer, self.settings
        with sharding_context(self.parts.sharder):
            numbers = evaluate(
                sampler,
                params,
                tokenizer,
                self.held_out,
                guidances=s.guidances,
                seed=s.seed,
                batch=s.batch,
                what=when,
                quiet=jax.process_index() > 0,
            )
            shown = gallery(
                sampler, params, tokenizer, self.held_out, guidance=self.guidance, seed=s.seed
            )
        if jax.process_index() == 0:
            write_gallery(self.workdir.samples, when, shown)
        return numbers

    def _stamp(self) -> dict[str, Any]:
        if jax.process_index() > 0:  # which may hold no ``eval.json``
            return {}
        seconds = time.time() - self._read()["started"]
        return {
            "command": " ".join(["python -m corl_jax.main", *sys.argv[1:]]),
            "date": time.strftime("%Y-%m-%d"),
            "seconds": round(seconds, 1),
            "machine": machine(),
            "versions": versions(),
        }

    def _read(self) -> dict[str, Any]:
        return json.loads(self.path.read_text()) if self.path.exists() else {}

    def _write(self, new: Mapping[str, Any]) -> None:
        if jax.process_index() > 0:
            return
        write_json(self.path, self._read() | dict(new))
        self.workdir.publish()
