"""From a config to a finished run: the stage, the training loop, the evaluation around it, its page.

``run`` starts a run in a new work directory and resumes one that is there.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
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
from corl_jax.engine.remote_workdir import is_address
from corl_jax.engine.run_history import RunHistory
from corl_jax.engine.trackers.collection import Trackers
from corl_jax.engine.workdir import Workdir, has_steps, join_workdir, open_workdir, undo_of
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
from corl_jax.stages.setup import Setup, write_tokenizer_files
from corl_jax.stages.start_checks import MAY_DIFFER, check_start


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

    A run that ends, or stops after a signal, leaves its page. Of a run that is complete one line is
    printed, and nothing in its work directory changes. One that ends with an error of the user before
    its first step is done leaves no work directory behind: the mended command may have another
    config.
    """
    preflight.check_accelerator_free(jax.config.jax_platforms)  # type: ignore[attr-defined]
    # The first process sees the work directory, and all end or go on together.
    line = on_first_process(lambda: finished_run(config, workdir, MAY_DIFFER))
    if line := texts_of_processes(line or "")[0]:
        if jax.process_index() == 0:
            print(line, flush=True)
        return

    undo = undo_of(workdir)
    prepared = prepare(config, workdir)
    try:
        _train_and_report(_observe(prepared, config), workdir)
    except UserError:
        if jax.process_index() == 0 and not has_steps(prepared.workdir):
            undo()
        raise


def _train_and_report(run: PreparedRun, workdir: str | Path) -> None:
    """Trains and evaluates, closes the trackers, and leaves the page."""
    is_whole = False
    evaluation = _evaluation(run)
    try:
        if evaluation is not None:
            evaluation.evaluate_before()
        for _ in train(run):
            pass
        if evaluation is not None:
            evaluation.evaluate_after()
        is_whole = True
    except Preempted:
        is_whole = True
        # All is saved: a page that cannot be written does not make an error of a stop.
        try:
            _leave_report(run, workdir)
        except UserError as error:
            print(f"no report is written: {error}", file=sys.stderr)
        raise
    finally:
        # Without an exchange, since the other processes may not come here.
        run.trackers.close(is_whole)
    _leave_report(run, workdir)


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
    """Builds and checks everything that training needs, and only then opens the work directory.

    Raises:
      UserError: all that is wrong with the config, the records, the policy or the work directory.
        Nothing has been written then.
    """
    start = check_start(config, workdir)
    setup, stage = start.setup, start.stage
    resume = read_block(ResumeConfig, config["resume"], "resume")
    hooks = read_block(HooksConfig, config["hooks"], "hooks")
    loop_config = LoopConfig(
        steps=start.run_config.steps,
        microbatches=start.run_config.microbatches,
        save_every=hooks.save_every,
        keep_checkpoints=hooks.keep_checkpoints,
        keep_completions=hooks.keep_completions,
        progress_metrics=start.run_config.progress_metrics,
        alarms=read_block(AlarmConfig, config["alarms"], "alarms"),
        fallback=resume.fallback,
    )

    # All that can be wrong is known now: the work directory may be touched.
    policies = [policy for _, policy in setup.sources]
    inputs = on_first_process(lambda: describe_inputs(policies, stage.train_records)) or {}
    undo = undo_of(workdir)
    try:
        opened, notes = _open_workdir(config, workdir, setup, inputs, resume)
    except UserError:
        if jax.process_index() == 0:
            undo()
        raise
    return PreparedRun(
        stage=stage,
        optimizer=start.optimizer,
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
