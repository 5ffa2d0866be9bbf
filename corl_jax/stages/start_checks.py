"""All that can keep a run from starting, found at once: before anything is compiled or written.

``check_start`` is the one place that knows the order: values of the config, the work directory, the
policy to start from, records and their splits, rewards and their models. What is wrong in one of
them does not hide what is wrong in the others.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax

from corl_jax.core.errors import UserError
from corl_jax.core.problems import Problems, SeveralProblems
from corl_jax.core.processes.agreement import on_all_processes, on_first_process, texts_of_processes
from corl_jax.data.sources.addresses import SHAPES
from corl_jax.data.sources.base import RecordSource
from corl_jax.engine.optim import Optimizer, make_optimizer
from corl_jax.engine.trackers.collection import check_packages
from corl_jax.engine.workdir import check_workdir
from corl_jax.stages import preflight
from corl_jax.stages.config import (
    DataConfig,
    RunConfig,
    TrackersConfig,
    has_evaluation,
    read_block,
    without_resume,
)
from corl_jax.stages.mixture_config import read_parts
from corl_jax.stages.rl.stage import RlStage
from corl_jax.stages.setup import Setup, build_setup, open_records, open_selection
from corl_jax.stages.sft import SftStage
from corl_jax.stages.tokenizer import TokenizerStage
from corl_jax.stages.whole_config import check_config, optim_config

T = TypeVar("T")

STAGES: dict[str, Callable[[Mapping[str, Any], Setup, Optimizer], Any]] = {
    "tokenizer": TokenizerStage,
    "sft": SftStage,
    "rl": RlStage,
}
"""Stage name in a config to its class. Beside the protocol of ``engine.stage`` a stage has ``setup``,
``train_records``, ``rows_per_step`` (how many of them a step reads, by name), ``input_checks`` (calls
that read what it needs before anything is written), ``hooks`` and ``label`` (what it trains, for
people)."""

MAY_DIFFER = (
    "steps",
    "data.check",
    "data.workers",
    "data.on_bad",
    "hooks.completions_every",
    "hooks.completions_groups",
    "hooks.keep_completions",
    "hooks.trace_steps",
    "hooks.trace_after",
    "rewards.options.timeout",
    "rl.rollout.image_prompt_length",
    "rl.rollout.text_prompt_length",
    "sft.generation_prompt_length",
    "sft.understanding_prompt_length",
    "sft.target_length",
    "trackers.names",
    "trackers.every",
    "trackers.project",
    "trackers.run_name",
)
"""Keys that a resumed run may change: how long it is, what mends an error in its middle, and what is
traced, shown and kept for people. Widths change nothing but the padding."""


@dataclasses.dataclass(frozen=True)
class CheckedStart:
    """What a run is made of, once nothing keeps it from starting."""

    run_config: RunConfig
    setup: Setup
    optimizer: Optimizer
    stage: Any


class StartProblems(Problems):
    """Problems of a start, of which all processes of the run collect the same."""

    def find(self, action: Callable[[], T]) -> T | None:
        """What ``action`` returns, or None if it raises a UserError on some process."""
        with self.collect():
            return on_all_processes(action)
        return None

    def raise_if_any(self) -> None:
        """Raises the same errors on all processes, those of process 0.

        Raises:
          UserError: see ``Problems``.
        """
        # A single one is raised as it is: each process knows best what it has met.
        if len(self.texts) > 1:
            raise SeveralProblems(json.loads(texts_of_processes(json.dumps(self.texts))[0]))
        super().raise_if_any()


def check_start(config: Mapping[str, Any], workdir: str | Path) -> CheckedStart:
    """Builds everything that training needs and checks all of it; nothing is written.

    Raises:
      UserError: all problems that were found, in one list.
    """
    preflight.check_accelerator_free(jax.config.jax_platforms)  # type: ignore[attr-defined]
    preflight.check_same_config(config)
    _check_stage(config)

    problems = StartProblems()
    run_config = problems.find(lambda: check_config(config))
    problems.find(lambda: on_first_process(lambda: _check_workdir(config, workdir)))
    problems.find(lambda: on_first_process(lambda: _check_trackers(config)))

    # The policy and the stage need a config that is right.
    setup = stage = None
    if run_config is not None:
        optimizer = make_optimizer(optim_config(config))
        setup = problems.find(lambda: build_setup(config))
    if run_config is not None and setup is not None:
        make_stage = functools.partial(STAGES[run_config.stage], config, setup, optimizer)
        stage = problems.find(make_stage)
    if stage is None:
        _find_without_stage(config, problems)
    else:
        _find_with_stage(config, stage, problems)

    problems.raise_if_any()
    assert run_config is not None and setup is not None
    return CheckedStart(run_config, setup, optimizer, stage)


def _find_with_stage(config: Mapping[str, Any], stage: Any, problems: StartProblems) -> None:
    """Problems of records, splits, rewards and widths, with all that the stage knows of them."""
    for check in stage.input_checks():
        problems.find(check)

    # Where records cannot be used, the others are still looked at.
    records: RecordSource | None = None
    if problems:
        order = stage.records_order.without_checks()
        with Problems().collect():
            records = on_all_processes(
                lambda: order.open({task: () for task in stage.records_order.tasks})
            )
    else:
        records = stage.train_records
    for name, rows in stage.rows_per_step.items():
        problems.find(functools.partial(check_rows, name, rows, records, config["microbatches"]))
    # Held-out records that are missing hide what would be asked of them.
    is_missing = isinstance(stage, RlStage) and not stage.held_out.is_open
    if is_missing and _uses_held_out_records(config) and records is not None:
        for check in stage.held_out_problems(records):
            problems.find(check)


def _find_without_stage(config: Mapping[str, Any], problems: StartProblems) -> None:
    """Problems of records that show without a tokenizer: files, columns, answers, splits."""
    with Problems().collect():
        data = read_block(DataConfig, config["data"], "data")
        parts = read_parts(data)
        for name, part in parts.items():
            problems.find(
                functools.partial(
                    open_selection, part.as_data(data), "train", (), f"data.mixture.{name}"
                )
            )
        if not parts and data.source != SHAPES:
            problems.find(lambda: open_selection(data, "train"))
        if data.source != SHAPES and _uses_held_out_records(config):
            problems.find(lambda: open_records(config, "test"))


def _uses_held_out_records(config: Mapping[str, Any]) -> bool:
    """Whether a run measures something on held-out records."""
    if config["stage"] != "rl":
        return config["stage"] == "tokenizer"
    return has_evaluation(config) or bool(config["hooks"]["probe_every"])


def _check_workdir(config: Mapping[str, Any], workdir: str | Path) -> None:
    """Raises UserError unless the run can begin or go on in its work directory."""
    check_workdir(workdir, without_resume(config), MAY_DIFFER)


def _check_trackers(config: Mapping[str, Any]) -> None:
    """Raises UserError unless the packages of the trackers are installed."""
    check_packages(read_block(TrackersConfig, config["trackers"], "trackers").names)


def _check_stage(config: Mapping[str, Any]) -> None:
    """Raises UserError for a stage that the config file is not for."""
    # A stage has a block of its name, which a config file for another stage lacks.
    if config["stage"] in STAGES and config["stage"] not in config:
        expected = ", ".join(name for name in STAGES if name in config) or "pipeline"
        raise UserError(
            f"config.stage must be the stage that the config file is for, {expected}; got "
            f"{config['stage']!r}. Choose another --config"
        )


def check_rows(name: str, rows: int, records: RecordSource | None, microbatches: int) -> None:
    """Checks the records of a step, which the config calls ``name``.

    Raises:
      UserError: a step needs more than there are (``records``, None where that is not known), or
        they do not divide into micro-batches.
    """
    if records is not None and not 0 <= rows <= len(records):
        raise UserError(
            f"{name} must be at most the number of training records, {len(records)}; got {rows}. "
            "Ask for fewer"
        )
    if rows % microbatches:
        raise UserError(
            f"{name} must divide into config.microbatches={microbatches}; got {rows}. "
            "Choose a divisor"
        )
