"""Stage after stage, each handing its policy to those behind it; then every policy measured, and one table.

In: a config whose ``train`` and ``merge`` hold stages by name. Out: a folder a stage, ``pipeline.json`` (what each
stage started from), ``results.json`` and ``results.md``. The same call goes on where it was stopped: a stage is over
when the manifest of its last checkpoint says so, and one that was interrupted goes on bit for bit.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from corl_jax.core.errors import UserError
from corl_jax.core.files import write_json
from corl_jax.engine.checkpoint import latest_step
from corl_jax.engine.handoff import saved_manifest
from corl_jax.engine.manifest import digest_of
from corl_jax.pipelines.config import HANDED, PipelineSettings, read_pipeline
from corl_jax.pipelines.results import measure, write_table
from corl_jax.porting.policy_merge import merge_policies
from corl_jax.stages.run import run

LEDGER = "pipeline.json"


def run_pipeline(config: Mapping[str, Any], workdir: str | Path) -> None:
    """Runs all stages that are not over, measures what is not measured, and writes the table.

    Raises:
      UserError: a config that cannot be run, several processes, or a stage that was made from another policy than the
        one that is there now.
    """
    settings = read_pipeline(config, str(workdir))
    if jax.process_count() > 1:
        raise UserError(
            "a pipeline runs on one process; on several hosts run the configs of its stages one by one"
        )
    pipeline = Pipeline(settings, Path(workdir).expanduser().absolute())
    pipeline.check()
    for number, name in enumerate(settings.order, 1):
        pipeline.advance(name, f"stage {number} of {len(settings.order)}: {name}")
    start = {"start": pipeline.start} if pipeline.start else {}
    policies = start | {name: str(pipeline.home / name) for name in settings.order}
    made = start | {name: pipeline.made(name) for name in settings.order}
    write_table(pipeline.home, measure(pipeline.home, policies, made, settings.evals))


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """A pipeline in its folder ``home``."""

    settings: PipelineSettings
    home: Path

    @property
    def start(self) -> str:
        """The policy that the first stage starts from; "" where that is no single one."""
        first = self.settings.order[0]
        policy = (
            str(self.settings.train[first]["init_from"]) if first in self.settings.train else ""
        )
        return "" if "=" in policy else policy

    def check(self) -> None:
        """Refuses a folder of something else.

        Raises:
          UserError: it is a file, or holds something and no pipeline.
        """
        if self.home.exists() and not self.home.is_dir():
            raise UserError(f"workdir {self.home} is a file; expected a folder or a new path")
        if self.home.is_dir() and any(self.home.iterdir()) and not (self.home / LEDGER).exists():
            raise UserError(
                f"workdir {self.home} is not empty and holds no pipeline; choose an empty or new --workdir"
            )

    def advance(self, name: str, what: str) -> None:
        """Brings one stage to its end, if it is not there."""
        if self.over(name):
            print(f"{what} is finished", flush=True)
            return
        self.note(name)
        sources = ", ".join(self.settings.sources(name)) or "outside"
        if name in self.settings.train:
            config = self.config(name)
            done = latest_step(self.home / name) or 0
            print(f"{what}, from {sources}: step {done} of {config['steps']}", flush=True)
            run(config, self.home / name)
        else:
            print(f"{what}, merging {sources}", flush=True)
            self.merge(name)

    def over(self, name: str) -> bool:
        """Whether a stage has made its policy, from the policies that are there now.

        Raises:
          UserError: it began from others.
        """
        folder = self.home / name
        noted = self.noted()
        if name in noted and noted[name] != self.origin(name) and folder.exists():
            raise UserError(
                f"{folder} was made from another policy or in another way than now ({self.home / LEDGER} says "
                "from which); delete that folder to make it again, or choose another --workdir"
            )
        if name in self.settings.merge:
            return (folder / "config.json").is_file()
        if latest_step(folder) is None:
            return False
        manifest, config = saved_manifest(folder), self.config(name)
        return (manifest.step, manifest.config_digest) == (config["steps"], digest_of(config))

    def config(self, name: str) -> dict[str, Any]:
        """The config of a stage that trains, with the folders of the policies handed to it."""
        config = json.loads(json.dumps(self.settings.train[name]))
        for source in sorted(self.settings.sources(name), key=len, reverse=True):
            config["init_from"] = config["init_from"].replace(
                HANDED + source, str(self.home / source)
            )
        return config

    def origin(self, name: str) -> dict[str, Any]:
        """What a stage is made from: the policies handed to it, and how they are merged."""
        how = (
            {"how": dataclasses.asdict(self.settings.merge[name].how)}
            if name in self.settings.merge
            else {}
        )
        origin = {
            "from": {source: self.made(source) for source in self.settings.sources(name)}
        } | how
        return json.loads(json.dumps(origin))

    def made(self, name: str) -> str:
        """What tells the policy that a stage made from any other."""
        if name in self.settings.merge:
            return digest_of(self.origin(name))
        manifest = saved_manifest(self.home / name)
        return f"step {manifest.step} {manifest.params_digest}"

    def merge(self, name: str) -> None:
        """Merges; what a merge that was killed left beside its folder is removed first."""
        merging = self.settings.merge[name]
        for left in self.home.glob(f".{name}-*"):
            shutil.rmtree(left)

        def place(policy: str) -> str:
            return (
                str(self.home / policy.removeprefix(HANDED))
                if policy.startswith(HANDED)
                else policy
            )

        experts = [place(expert) for expert in merging.experts]
        merge_policies(place(merging.base), experts, self.home / name, merging.how)

    def noted(self) -> dict[str, Any]:
        """By stage what it was made from, as far as it was begun."""
        path = self.home / LEDGER
        return json.loads(path.read_text()) if path.exists() else {}

    def note(self, name: str) -> None:
        """Notes what a stage is being made from, before it is begun."""
        write_json(self.home / LEDGER, self.noted() | {name: self.origin(name)})
