"""What a pipeline reads from its config, checked before its first stage begins. In: a config; out: its settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from corl_jax.core.errors import UserError
from corl_jax.engine.remote_workdir import is_address
from corl_jax.porting.policy_merge import MergeSettings
from corl_jax.stages.config import EvalSettings, block
from corl_jax.stages.rl.config import read_settings
from corl_jax.stages.run import STAGES, optim_config

PIPELINE = "pipeline"
"""Name of the stage in its config."""
HANDED = "@"
"""In front of the name of an earlier stage, where a policy is wanted."""


@dataclasses.dataclass(frozen=True)
class Merging:
    """A stage that merges ``experts`` into ``base``; see ``porting.policy_merge``."""

    base: str
    experts: tuple[str, ...]
    how: MergeSettings


@dataclasses.dataclass(frozen=True)
class PipelineSettings:
    """Stages by name.

    Attributes:
      order: their names, first to last.
      train: whole configs of those that train; ``@NAME`` in ``init_from`` is what the stage NAME made.
      merge: those that merge.
      evals: how every policy is measured; with ``n=0`` none is.
    """

    order: tuple[str, ...]
    train: Mapping[str, Mapping[str, Any]]
    merge: Mapping[str, Merging]
    evals: EvalSettings

    def sources(self, name: str) -> tuple[str, ...]:
        """The stages that ``name`` starts from."""
        if name in self.merge:
            places = (self.merge[name].base, *self.merge[name].experts)
        else:
            parts = str(self.train[name]["init_from"]).split(",")
            places = tuple(part.rpartition("=")[2].strip() for part in parts)
        return tuple(
            dict.fromkeys(
                place.removeprefix(HANDED) for place in places if place.startswith(HANDED)
            )
        )


def read_pipeline(config: Mapping[str, Any], workdir: str) -> PipelineSettings:
    """The config of a pipeline.

    Raises:
      UserError: a stage that cannot be trained, is not described or described twice, or starts from a later one; an
        address as the work directory.
    """
    if is_address(workdir):
        raise UserError(
            f"workdir {workdir} is an address, and a pipeline hands policies on in folders; choose a folder"
        )
    order, train = tuple(config["order"]), dict(config["train"])
    merge = {name: _merging(raw) for name, raw in config["merge"].items()}
    if twice := sorted(train.keys() & merge.keys()) or sorted(
        {name for name in order if order.count(name) > 1}
    ):
        raise UserError(f"the stage {twice[0]!r} stands twice in the pipeline; name each once")
    if odd := sorted(set(order) ^ (train.keys() | merge.keys())):
        raise UserError(
            f"config.order={order} and the stages described differ in {odd[0]!r}; expected {', '.join(train | merge)}"
        )
    found = PipelineSettings(order, train, merge, block(EvalSettings, config["evals"], "evals"))
    for i, name in enumerate(order):
        if later := [source for source in found.sources(name) if source not in order[:i]]:
            raise UserError(
                f"the stage {name!r} starts from {HANDED + later[0]}, which does not stand before it; expected one of "
                f"{', '.join(HANDED + other for other in order[:i]) or 'tiny, a folder'}"
            )
        if name in train:
            _check(name, train[name])
    return found


def _merging(raw: Mapping[str, Any]) -> Merging:
    how = {key: value for key, value in raw.items() if key not in ("base", "experts")}
    return Merging(raw["base"], tuple(raw["experts"]), block(MergeSettings, how, "merge"))


def _check(name: str, config: Mapping[str, Any]) -> None:
    """What can be told of a stage before the policy that it starts from is there."""
    if config["stage"] not in STAGES:
        raise UserError(
            f"train.{name}: unknown stage {config['stage']!r}; expected one of {', '.join(STAGES)}"
        )
    try:
        optim_config(config)
        if config["stage"] == "rl":
            read_settings(config, config["updates_per_step"])
    except UserError as error:
        raise UserError(f"config.train.{name}: {error}") from None
