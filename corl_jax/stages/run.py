"""From a config to a finished run: the stage, the training loop, the evaluation around it, its page.

``run`` starts a run in a new work directory and resumes one that is there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from corl_jax.core.errors import UserError
from corl_jax.core.files import name_write_errors
from corl_jax.core.processes.agreement import on_first_process, texts_of_processes
from corl_jax.engine.alarms import AlarmConfig
from corl_jax.engine.checkpoints.step_folders import saved_steps
from corl_jax.engine.hooks import Preempted, Profile
from corl_jax.engine.loop import LoopConfig, TrainingRun, train
from corl_jax.engine.optim import Optimizer, make_optimizer
from corl_jax.engine.remote_workdir import is_address
from corl_jax.engine.run_history import RunHistory
from corl_jax.engine.trackers.collection import Trackers, check_packages
from corl_jax.engine.workdir import Workdir, check_reachable, join_workdir, open_workdir
from corl_jax.stages import preflight
from corl_jax.stages.config import (
    HooksConfig,
    ResumeConfig,
    TrackersConfig,
    read_block,
    without_resume,
)
from corl_jax.stages.evaluate_run import RunEvaluation
from corl_jax.stages.finished_run import finished_run
from corl_jax.stages.rl.evaluation import HeldOutEvaluation
from corl_jax.stages.rl.stage import RlStage
from corl_jax.stages.run_ending import leave_report
from corl_jax.stages.run_inputs import check_resumable, describe_inputs
from corl_jax.stages.setup import Setup, build_setup, write_tokenizer_files
from corl_jax.stages.sft import SftStage
from corl_jax.stages.tokenizer import TokenizerStage
from corl_jax.stages.whole_config import check_config, optim_config

STAGES: dict[str, Callable[[Mapping[str, Any], Setup, Optimizer], Any]] = {
    "tokenizer": TokenizerStage,
    "sft": SftStage,
    "rl": RlStage,
}
"""Stage name in a config to its class. Beside the protocol of ``engine.stage`` a stage has ``setup``,
``train_records``, ``rows_per_step`` (how many of them a step reads, by name), ``open_inputs`` (reads
what it needs before anything is written), ``hooks`` and ``label`` (what it trains, for people)."""


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedRun(TrainingRun):
    """A training run with the ``setup`` that its stage was built from, and its evaluation, if any.

    Attributes:
      name: of the work directory, without the folders above it.
    """

    name: str
    setup: Setup
    evaluation: HeldOutEvaluation | None


def run(config: Mapping[str, Any], workdir: str | Path) -> None:
    """Trains to the end; a config with ``evals`` is evaluated before and after.

    A run that ends, or stops after a signal, leaves its page. Of a run that is
    complete one line is printed, and nothing in its work directory changes.
    """
    preflight.check_accelerator_free(jax.config.jax_platforms)  # type: ignore[attr-defined]
    _check_stage(config)
    check_config(config)
    # The first process sees the work directory, and all end or go on together.
    line = on_first_process(lambda: finished_run(config, workdir, MAY_DIFFER))
    if line := texts_of_processes(line or "")[0]:
        if jax.process_index() == 0:
            print(line, flush=True)
        return

    prepared = prepare(config, workdir)
    observed = _observe(prepared, config)

    is_whole = False
    try:
        _train_and_evaluate(observed)
        is_whole = True
    except Preempted:
        is_whole = True
        _leave_report(observed, workdir)
        raise
    finally:
        on_first_process(lambda: observed.trackers.close(is_whole))
    _leave_report(observed, workdir)


def _train_and_evaluate(run: PreparedRun) -> None:
    evaluation = _evaluation(run)
    if evaluation is not None:
        evaluation.evaluate_before()
    for _ in train(run):
        pass
    if evaluation is not None:
        evaluation.evaluate_after()


def _evaluation(run: PreparedRun) -> RunEvaluation | None:
    if run.evaluation is None:
        return None
    return RunEvaluation(run.setup, run.workdir, run.evaluation, run.cfg.steps, run.trackers)


def _observe(run: PreparedRun, config: Mapping[str, Any]) -> PreparedRun:
    """The run with its trackers and its history, which the first process opens."""
    trackers = read_block(TrackersConfig, config["trackers"], "trackers")

    def open_trackers() -> Trackers:
        return Trackers.open(
            trackers.names,
            trackers.every,
            run.workdir.path,
            project=trackers.project,
            run_name=trackers.run_name or run.name,
            config=without_resume(config),
        )

    opened = on_first_process(open_trackers) or Trackers()
    steps_done = max(saved_steps(run.workdir.checkpoints), default=0)
    history = on_first_process(lambda: RunHistory(run.workdir.path, steps_done))
    return dataclasses.replace(run, trackers=opened, history=history)


def _leave_report(run: PreparedRun, name: str | Path) -> None:
    """Writes the page on the first process, which has the history."""
    if run.history is not None:
        leave_report(run.workdir, run.history, run.cfg.steps, run.cfg.progress_metrics, str(name))


def prepare(config: Mapping[str, Any], workdir: str | Path) -> PreparedRun:
    """Builds everything that training needs, and only then opens the work directory.

    Raises:
      UserError: a value of the config that is wrong, or a work directory of another run. Nothing
        has been written then.
    """
    preflight.check_accelerator_free(jax.config.jax_platforms)  # type: ignore[attr-defined]
    preflight.check_same_config(config)
    _check_stage(config)
    run_config = check_config(config)
    on_first_process(lambda: check_reachable(workdir))
    trackers = read_block(TrackersConfig, config["trackers"], "trackers")
    on_first_process(lambda: check_packages(trackers.names))
    resume = read_block(ResumeConfig, config["resume"], "resume")
    hooks = read_block(HooksConfig, config["hooks"], "hooks")
    loop_config = LoopConfig(
        steps=run_config.steps,
        microbatches=run_config.microbatches,
        save_every=hooks.save_every,
        keep_checkpoints=hooks.keep_checkpoints,
        keep_completions=hooks.keep_completions,
        progress_metrics=run_config.progress_metrics,
        alarms=read_block(AlarmConfig, config["alarms"], "alarms"),
        fallback=resume.fallback,
    )

    # From here on model folders and records are read, but nothing is written.
    optimizer = make_optimizer(optim_config(config))
    setup = build_setup(config)
    stage = STAGES[run_config.stage](config, setup, optimizer)
    _check_rows(stage.rows_per_step, len(stage.train_records), run_config.microbatches)
    stage.open_inputs()

    # All that can be wrong is known now: the work directory may be touched.
    policies = [policy for _, policy in setup.sources]
    inputs = on_first_process(lambda: describe_inputs(policies, stage.train_records)) or {}
    opened, notes = _open_workdir(config, workdir, setup, inputs, resume)
    return PreparedRun(
        stage=stage,
        optimizer=optimizer,
        cfg=loop_config,
        workdir=opened,
        model=setup.model_json(),
        hooks=(*stage.hooks(hooks), *_profile(hooks, opened)),
        sharder=setup.sharder,
        label=f"{_name(workdir)}: {stage.label}",
        name=_name(workdir),
        setup=setup,
        evaluation=stage.evaluation if isinstance(stage, RlStage) else None,
        inputs=inputs,
        notes=notes,
    )


def _name(workdir: str | Path) -> str:
    """The last name of a folder or an address."""
    if is_address(workdir):
        return str(workdir).rstrip("/").rpartition("/")[2]
    return Path(workdir).expanduser().absolute().name


def _profile(hooks: HooksConfig, workdir: Workdir) -> tuple[Profile, ...]:
    """The hook that traces steps, where the config has it."""
    if not hooks.trace_steps:
        return ()
    return (Profile(workdir.path / "trace", hooks.trace_after, hooks.trace_steps),)


def _check_stage(config: Mapping[str, Any]) -> None:
    """Raises UserError for a stage that the config file is not for."""
    # A stage has a block of its name, which a config file for another stage lacks.
    if config["stage"] in STAGES and config["stage"] not in config:
        expected = ", ".join(name for name in STAGES if name in config) or "pipeline"
        raise UserError(
            f"config.stage must be the stage that the config file is for, {expected}; got "
            f"{config['stage']!r}. Choose another --config"
        )


def _check_rows(rows_per_step: Mapping[str, int], records: int, microbatches: int) -> None:
    """Raises UserError where a step needs more records than there are, or rows do not divide."""
    for name, rows in rows_per_step.items():
        if not 0 <= rows <= records:
            raise UserError(
                f"{name} must be at most the number of training records, {records}; got {rows}. "
                "Ask for fewer"
            )
        if rows % microbatches:
            raise UserError(
                f"{name} must divide into config.microbatches={microbatches}; got {rows}. "
                "Choose a divisor"
            )


def _open_workdir(
    config: Mapping[str, Any],
    workdir: str | Path,
    setup: Setup,
    inputs: Mapping[str, Any],
    resume: ResumeConfig,
) -> tuple[Workdir, tuple[str, ...]]:
    """The work directory with its config and tokenizer; every process can see it and write to it.

    Also what the user should know of how the run goes on there.
    """
    policies = [policy for _, policy in setup.sources]
    notes: list[str] = []

    def check(there: Workdir) -> None:
        accepts_records = config["data"]["changed"] == "accept"
        notes.extend(
            check_resumable(there, config["steps"], inputs, policies, resume, accepts_records)
        )

    def create() -> None:
        created = open_workdir(workdir, without_resume(config), MAY_DIFFER, check)
        tokenizer_folder = created.path / "tokenizer"
        with name_write_errors(tokenizer_folder):
            write_tokenizer_files(setup.sources, tokenizer_folder)
        created.push()

    on_first_process(create)
    joined = join_workdir(workdir)
    preflight.check_writable(joined)
    return joined, tuple(notes)
