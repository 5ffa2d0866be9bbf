"""Runs stages one after the other, evaluates every policy, and writes one table.

The config contains the configs of its stages by name. The work directory gets a folder per stage,
``pipeline.json`` (what each stage was made from), ``results.json`` and ``results.md``. The same
call goes on where it was stopped: a stage is finished when the manifest of its last checkpoint says
so, and an interrupted one resumes bit for bit.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.checks.paths import user_path
from corl_jax.core.errors import UserError
from corl_jax.core.files import write_json
from corl_jax.engine.checkpoints.handoff import saved_manifest
from corl_jax.engine.checkpoints.inventory import DamagedCheckpoint
from corl_jax.engine.checkpoints.manifest import json_digest
from corl_jax.engine.checkpoints.step_folders import latest_step
from corl_jax.pipelines.config import STAGE_PREFIX, PipelineConfig, read_pipeline
from corl_jax.pipelines.results import evaluate_policies, write_table
from corl_jax.porting.policy_merge import merge_policies
from corl_jax.stages.config import without_resume
from corl_jax.stages.run import run

INPUTS_FILE = "pipeline.json"
"""Stage name to what the stage was made from; written before a stage begins."""


def run_pipeline(config: Mapping[str, Any], workdir: str | Path) -> None:
    """Runs all stages that are not finished, evaluates their policies, and writes the table.

    Args:
      config: see ``configs/corl.py``.
      workdir: a new folder, or that of a pipeline to go on with.

    Raises:
      UserError: a config that cannot be run, several processes, or a stage that was made from
        another policy than the one that is there now.
    """
    pipeline_config = read_pipeline(config, str(workdir))
    if jax.process_count() > 1:
        raise UserError(
            f"a pipeline must run on one process; got {jax.process_count()}. "
            "On several hosts run the configs of its stages one by one"
        )

    pipeline = Pipeline(pipeline_config, user_path(workdir, "the work directory").absolute())
    pipeline.check_workdir()

    # Finished stages are passed over, so a stopped pipeline goes on where it was.
    order = pipeline_config.order
    for number, name in enumerate(order, 1):
        pipeline.finish_stage(name, f"stage {number} of {len(order)}: {name}")

    # The table begins with the policy that the first stage started from; its name is its id.
    start = {"start": pipeline.start} if pipeline.start else {}
    policies = start | {name: str(pipeline.workdir / name) for name in order}
    policy_ids = start | {name: pipeline.policy_id(name) for name in order}
    results = evaluate_policies(pipeline.workdir, policies, policy_ids, pipeline_config.evals)
    write_table(pipeline.workdir, results)


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """A pipeline in its work directory.

    Attributes:
      config: its stages.
      workdir: with one folder per stage.
    """

    config: PipelineConfig
    workdir: Path

    @property
    def start(self) -> str:
        """The policy that the first stage starts from; "" for none or for several."""
        first = self.config.order[0]
        if first not in self.config.train:
            return ""
        policy = str(self.config.train[first]["init_from"])
        # Pairs PATTERN=POLICY take parts of several policies.
        return "" if "=" in policy else policy

    def check_workdir(self) -> None:
        """Checks that the work directory is new, or one of a pipeline.

        Raises:
          UserError: it is a file, or a folder with other files.
        """
        if self.workdir.exists() and not self.workdir.is_dir():
            raise UserError(
                f"a work directory must be a folder or a new path; {self.workdir} is a file"
            )
        if not self.workdir.is_dir() or (self.workdir / INPUTS_FILE).exists():
            return
        if any(self.workdir.iterdir()):
            raise UserError(
                f"a work directory must be empty, new or that of a pipeline; {self.workdir} is not "
                f"empty and has no {INPUTS_FILE}. Choose another --workdir"
            )

    def finish_stage(self, name: str, label: str) -> None:
        """Runs a stage to its end unless it is finished already; prints begin with ``label``."""
        if self.is_finished(name):
            print(f"{label} is finished", flush=True)
            return
        # Recorded first: a stage that is killed must still know what it began from.
        self.record_inputs(name)

        sources = ", ".join(self.config.sources(name)) or "outside"
        if name in self.config.train:
            config = self.stage_config(name)
            step = latest_step(self.workdir / name) or 0
            print(f"{label}, from {sources}: step {step} of {config['steps']}", flush=True)
            run(config, self.workdir / name)
        else:
            print(f"{label}, merging {sources}", flush=True)
            self.merge(name)

    def is_finished(self, name: str) -> bool:
        """Whether a stage has made its policy from the policies that are there now.

        Raises:
          UserError: it was begun from other policies.
        """
        folder = self.workdir / name
        recorded = self.recorded_inputs()
        if name in recorded and recorded[name] != self.inputs(name) and folder.exists():
            raise UserError(
                f"a stage must go on from the policy it began with; {folder} was made from "
                f"another policy or in another way than now ({self.workdir / INPUTS_FILE} has the "
                "details). Delete that folder to make it again, or choose another --workdir"
            )

        # A merged folder appears at once, when it is complete.
        if name in self.config.merge:
            return (folder / "config.json").is_file()
        if latest_step(folder) is None:
            return False

        # A damaged checkpoint is refused, or passed over, when the stage goes on.
        try:
            manifest = saved_manifest(folder)
        except DamagedCheckpoint:
            return False
        # A longer run or another config makes a finished stage unfinished.
        config = self.stage_config(name)
        return (manifest.step, manifest.config_digest) == (
            config["steps"],
            json_digest(without_resume(config)),
        )

    def stage_config(self, name: str) -> dict[str, Any]:
        """The config of a stage that trains, with folders of stages in place of ``@NAME``."""
        config = json.loads(json.dumps(self.config.train[name]))
        # Longest names first, since one name can be the beginning of another.
        for source in sorted(self.config.sources(name), key=len, reverse=True):
            config["init_from"] = config["init_from"].replace(
                STAGE_PREFIX + source, str(self.workdir / source)
            )
        return config

    def inputs(self, name: str) -> dict[str, Any]:
        """What a stage is made from, as JSON: ids of its source policies, and how they merge."""
        inputs: dict[str, Any] = {
            "from": {source: self.policy_id(source) for source in self.config.sources(name)}
        }
        if name in self.config.merge:
            inputs["how"] = dataclasses.asdict(self.config.merge[name].settings)
        # As it is read back from the file: tuples become lists.
        return json.loads(json.dumps(inputs))

    def policy_id(self, name: str) -> str:
        """A text that differs between different policies of a stage."""
        # A merge is a function of its inputs, so their digest identifies it.
        if name in self.config.merge:
            return json_digest(self.inputs(name))
        # The digest of the parameters would do; the step is for people who read the file.
        manifest = saved_manifest(self.workdir / name)
        return f"step {manifest.step} {manifest.params_digest}"

    def merge(self, name: str) -> None:
        """Makes the policy of a stage that merges."""
        # A merge that was killed leaves temporary files next to its folder.
        for leftover in self.workdir.glob(f".{name}-*"):
            shutil.rmtree(leftover)

        stage = self.config.merge[name]
        experts = [self._policy_path(expert) for expert in stage.experts]
        merge_policies(self._policy_path(stage.base), experts, self.workdir / name, stage.settings)

    def _policy_path(self, policy: str) -> str:
        """The folder of the stage for ``@NAME``; any other policy as it is."""
        if not policy.startswith(STAGE_PREFIX):
            return policy
        return str(self.workdir / policy.removeprefix(STAGE_PREFIX))

    def recorded_inputs(self) -> dict[str, Any]:
        """By stage, what it was made from; stages that were never begun are missing."""
        path = self.workdir / INPUTS_FILE
        return dict(JsonObject.read(path).entries) if path.exists() else {}

    def record_inputs(self, name: str) -> None:
        """Records what a stage is made from, before it begins."""
        write_json(self.workdir / INPUTS_FILE, self.recorded_inputs() | {name: self.inputs(name)})
