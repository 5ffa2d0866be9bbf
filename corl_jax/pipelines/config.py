"""The config of a pipeline as dataclasses, checked before its first stage begins."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from corl_jax.core.checks.config_block import NotEmpty, Seed, check_value
from corl_jax.core.errors import UserError
from corl_jax.engine.remote_workdir import is_address
from corl_jax.porting.policy_merge import MergeSettings
from corl_jax.stages.config import (
    EvalsConfig,
    as_tuple,
    check_key,
    check_keys,
    read_block,
    within,
)
from corl_jax.stages.whole_config import check_config

STAGE_PREFIX = "@"
"""In front of the name of an earlier stage, in place of the path of a policy."""

Policy = Annotated[str, NotEmpty()]
Policies = Annotated[tuple[Policy, ...], NotEmpty()]
StageNames = Annotated[tuple[str, ...], NotEmpty()]
Blocks = Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class MergeStage:
    """A stage that merges policies instead of training one.

    Attributes:
      base: the policy that the experts were trained from, ``@NAME`` or a path.
      experts: the policies to merge, ``@NAME`` or paths.
      settings: see ``porting.policy_merge``.
    """

    base: str
    experts: tuple[str, ...]
    settings: MergeSettings


@dataclasses.dataclass(frozen=True)
class PipelineConfig:
    """The stages of a pipeline.

    Attributes:
      order: names of all stages of a pipeline, first to last.
      train: by name, the complete config of every stage that trains; ``@NAME`` in its ``init_from``
        is the policy of the stage NAME.
      merge: by name, the stages that merge.
      evals: how every policy is evaluated; with 0 records none is.
    """

    order: tuple[str, ...]
    train: Mapping[str, Mapping[str, Any]]
    merge: Mapping[str, MergeStage]
    evals: EvalsConfig

    def sources(self, name: str) -> tuple[str, ...]:
        """Names of the stages whose policies the stage ``name`` starts from."""
        if name in self.merge:
            policies = (self.merge[name].base, *self.merge[name].experts)
        else:
            # init_from is one policy, or pairs PATTERN=POLICY separated by commas.
            pairs = str(self.train[name]["init_from"]).split(",")
            policies = tuple(pair.rpartition("=")[2].strip() for pair in pairs)

        # Paths of policies outside of the pipeline have no prefix.
        stages = [
            policy.removeprefix(STAGE_PREFIX)
            for policy in policies
            if policy.startswith(STAGE_PREFIX)
        ]
        return tuple(dict.fromkeys(stages))


def read_pipeline(config: Mapping[str, Any], workdir: str) -> PipelineConfig:
    """Reads and checks the config of a pipeline.

    Args:
      config: with ``order``, ``train``, ``merge`` and ``evals``.
      workdir: folder of the pipeline.

    Raises:
      UserError: a stage that cannot be trained, is missing or is named twice, or starts from a
        later one; or a work directory that is an address.
    """
    if is_address(workdir):
        raise UserError(
            f"the work directory of a pipeline must be a folder; {workdir} is an address. "
            "Choose a folder, since stages exchange policies as files of this host"
        )

    if "order" not in config:
        raise UserError(
            "config.stage must be the stage that the config file is for; got 'pipeline', which "
            "configs/corl.py is for"
        )

    # The blocks of the config, and whether they name the same stages.
    check_key(config, "seed", Seed)
    check_key(config, "order", StageNames)
    for key in ("train", "merge"):
        check_key(config, key, Blocks)
    order, train = tuple(config["order"]), dict(config["train"])
    merge = {name: _merge_stage(name, block) for name, block in config["merge"].items()}
    _check_names(order, train, merge)
    evals = read_block(EvalsConfig, config["evals"], "evals")
    if evals.num_records and evals.scoring != "world":
        raise UserError(
            "config.evals.scoring must be world in a pipeline, which has no rewards of its own; got "
            f"{evals.scoring!r}. Its stages may be evaluated by theirs, config.train.NAME.evals"
        )
    pipeline = PipelineConfig(order, train, merge, evals)

    # Each stage: what it starts from, and its own config.
    for i, name in enumerate(order):
        earlier = order[:i]
        not_earlier = [source for source in pipeline.sources(name) if source not in earlier]
        if not_earlier:
            choices = [STAGE_PREFIX + stage for stage in earlier] or ["tiny", "a folder"]
            raise UserError(
                f"a stage must start from an earlier stage; {name!r} starts from "
                f"{STAGE_PREFIX}{not_earlier[0]}. Expected one of {', '.join(choices)}"
            )

        if name in train:
            _check_training(name, train[name])
    return pipeline


def _check_names(
    order: tuple[str, ...], train: Mapping[str, object], merge: Mapping[str, object]
) -> None:
    """Raises UserError unless ``order`` names every stage exactly once."""
    in_both = sorted(train.keys() & merge.keys())
    repeated = in_both or sorted({name for name in order if order.count(name) > 1})
    if repeated:
        raise UserError(
            f"a pipeline must name every stage once; got {repeated[0]!r} twice. Rename one of them"
        )

    # In order but not described, or described but not in order.
    unmatched = sorted(set(order) ^ (train.keys() | merge.keys()))
    if unmatched:
        raise UserError(
            f"config.order must name exactly the stages of config.train and config.merge; got "
            f"{order}, which differs in {unmatched[0]!r}. Expected {', '.join([*train, *merge])}"
        )


def _merge_stage(name: str, block: Mapping[str, Any]) -> MergeStage:
    # All other keys of the block are fields of MergeSettings.
    policies = ("base", "experts")
    settings = {field.name for field in dataclasses.fields(MergeSettings)}
    check_keys(block, settings | set(policies), f"merge.{name}")
    with within(f"merge.{name}"):
        check_value("base", block["base"], Policy)
        check_value("experts", as_tuple(block["experts"]), Policies)
    return MergeStage(
        block["base"],
        tuple(block["experts"]),
        read_block(
            MergeSettings,
            {key: value for key, value in block.items() if key not in policies},
            f"merge.{name}",
        ),
    )


def _check_training(name: str, config: Mapping[str, Any]) -> None:
    """Raises UserError for what can be wrong before the policy to start from exists."""
    try:
        check_config(config)
    except UserError as error:
        # The error names a key of the stage's own config.
        raise UserError(f"config.train.{name}: {error}") from None
