"""From a config to a finished run: the stage by name, the loop, and what comes before and after it.

In: a plain config and a work directory, a folder or an address. Out: the files of the run. The same call resumes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from corl_jax.core.errors import UserError
from corl_jax.core.processes import on_first_process
from corl_jax.core.sharding import sharding_context
from corl_jax.engine.alarms import AlarmConfig
from corl_jax.engine.hooks import Hook
from corl_jax.engine.loop import LoopConfig, StepResult, train
from corl_jax.engine.optim import OptimConfig, Optimizer, make_optimizer
from corl_jax.engine.update import make_update
from corl_jax.engine.workdir import Workdir, joined_workdir, open_workdir
from corl_jax.stages import preflight
from corl_jax.stages.config import HookSettings, block
from corl_jax.stages.evaluate_run import RunEvaluation
from corl_jax.stages.rl.stage import RlStage
from corl_jax.stages.setup import Setup, build_setup, write_tokenizer_files
from corl_jax.stages.sft import SftStage
from corl_jax.stages.tokenizer import TokenizerStage

STAGES: dict[str, Callable[[Mapping[str, Any], Setup, Optimizer], Any]] = {
    "tokenizer": TokenizerStage,
    "sft": SftStage,
    "rl": RlStage,
}
"""Stage name in a config to its class. Beside the engine's ``Stage`` protocol it has ``train`` (its records), ``rows``
(what it reads of them in a step, by name), ``open`` (reads what it needs before anything is written) and
``hooks(settings)``."""


@dataclasses.dataclass(frozen=True)
class Assembled:
    """A run that is ready to go."""

    stage: Any
    parts: Setup
    workdir: Workdir
    loop: LoopConfig
    optimizer: Optimizer
    microbatches: int
    hooks: list[Hook]


def prepare(config: Mapping[str, Any], workdir: str | Path) -> Assembled:
    """Builds everything that training needs, and only then opens the work directory.

    Raises:
      UserError: any value of the config that is wrong, or a work directory of another run; nothing is then written.
    """
    preflight.check_accelerator_free(jax.config.jax_platforms)  # type: ignore[attr-defined]
    preflight.check_same_config(config)
    name = config["stage"]
    if name not in STAGES:
        raise UserError(f"unknown stage {name!r}; expected one of {', '.join(STAGES)}")
    for key in ("steps", "microbatches", "updates_per_step"):
        if not isinstance(config[key], int) or config[key] < 1:
            raise UserError(
                f"config.{key}={config[key]!r} is no count; expected a whole number from 1 on"
            )
    hooks = block(HookSettings, config["hooks"], "hooks")
    optimizer = make_optimizer(optim_config(config))
    parts = build_setup(config)
    stage = STAGES[name](config, parts, optimizer)
    loop = LoopConfig(
        steps=config["steps"],
        save_every=hooks.save_every,
        keep=hooks.keep,
        tensorboard_every=hooks.tensorboard_every,
        show=tuple(config["show"]),
        alarm=block(
            AlarmConfig, config["alarm"] | {"watch": tuple(config["alarm"]["watch"])}, "alarm"
        ),
    )
    stage.open()
    for what, rows in stage.rows.items():
        if not 0 <= rows <= len(stage.train):
            raise UserError(
                f"{rows} {what} a step do not fit a source of {len(stage.train)} records; ask for fewer"
            )
        if rows % config["microbatches"]:
            raise UserError(
                f"{rows} {what} a step do not split into {config['microbatches']} microbatches; choose a divisor"
            )
    opened = _open(config, workdir, parts)
    return Assembled(
        stage, parts, opened, loop, optimizer, config["microbatches"], stage.hooks(hooks)
    )


def _open(config: Mapping[str, Any], workdir: str | Path, parts: Setup) -> Workdir:
    """The work directory with its config and tokenizer, as every process sees it and can write to it."""

    def fill() -> None:
        opened = open_workdir(workdir, config)
        write_tokenizer_files(parts.sources, opened.path / "tokenizer")
        opened.publish()

    on_first_process(fill)
    joined = joined_workdir(workdir)
    preflight.check_writable(joined)
    return joined


def optim_config(config: Mapping[str, Any]) -> OptimConfig:
    """The block ``optim``; schedules run over all updates, the warm-up over ``warmup_ratio`` of them."""
    updates = config["steps"] * config["updates_per_step"]
    raw = dict(config["optim"])
    if "warmup_ratio" not in raw or not 0 <= raw["warmup_ratio"] < 1:
        raise UserError(
            "config.optim.warmup_ratio is missing or out of range; expected a share from 0 up to 1"
        )
    warmup = int(updates * raw.pop("warmup_ratio"))
    return block(OptimConfig, raw, "optim", total_steps=updates, warmup_steps=warmup)


def steps(run: Assembled) -> Iterator[StepResult]:
    """Trains, one step at a time; resumes what the work directory holds."""
    with sharding_context(run.parts.sharder):
        update = make_update(run.stage.loss, run.stage.after, run.optimizer, run.microbatches)
        yield from train(
            run.stage, update, run.loop, run.workdir, run.parts.described(), hooks=run.hooks
        )


def run(config: Mapping[str, Any], workdir: str | Path) -> None:
    """Trains to the end; a config with ``evals`` is measured before and after, and reported."""
    assembled = prepare(config, workdir)
    measure = RunEvaluation.of(config, assembled.parts, assembled.workdir)
    if measure is not None:
        measure.before()
    for _ in steps(assembled):
        pass
    if measure is not None:
        measure.after()
