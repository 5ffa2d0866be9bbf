"""From a config to a finished run: the stage, the training loop, and the evaluation around it.

``run`` starts a run in a new work directory and resumes one that is there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from corl_jax.core.errors import UserError
from corl_jax.core.files import name_write_errors
from corl_jax.core.processes.agreement import on_first_process
from corl_jax.engine.alarms import AlarmConfig
from corl_jax.engine.hooks import Profile
from corl_jax.engine.loop import LoopConfig, TrainingRun, train
from corl_jax.engine.workdir import Workdir, has_steps, join_workdir, open_workdir, undo_of
from corl_jax.stages import preflight
from corl_jax.stages.config import HooksConfig, ResumeConfig, read_block, without_resume
from corl_jax.stages.evaluate_run import RunEvaluation
from corl_jax.stages.rl.evaluation import HeldOutEvaluation
from corl_jax.stages.rl.stage import RlStage
from corl_jax.stages.run_inputs import check_resumable, describe_inputs
from corl_jax.stages.setup import Setup, write_tokenizer_files
from corl_jax.stages.start_checks import MAY_DIFFER, check_start


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedRun(TrainingRun):
    """A training run with the ``setup`` that its stage was built from, and its evaluation, if any."""

    setup: Setup
    evaluation: HeldOutEvaluation | None


def run(config: Mapping[str, Any], workdir: str | Path) -> None:
    """Trains to the end; a config with ``evals`` is evaluated before and after, and reported.

    A run that ends with an error of the user before its first step is done leaves no work directory
    behind: the mended command may have another config.
    """
    undo = undo_of(workdir)
    prepared = prepare(config, workdir)
    try:
        _train(prepared)
    except UserError:
        if jax.process_index() == 0 and not has_steps(prepared.workdir):
            undo()
        raise


def _train(prepared: PreparedRun) -> None:
    """Trains to the end, with the evaluation around it."""
    evaluation = None
    if prepared.evaluation is not None:
        evaluation = RunEvaluation(
            prepared.setup, prepared.workdir, prepared.evaluation, prepared.cfg.steps
        )
        evaluation.evaluate_before()

    for _ in train(prepared):
        pass

    if evaluation is not None:
        evaluation.evaluate_after()


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
        tensorboard_every=hooks.tensorboard_every,
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
        setup=setup,
        evaluation=stage.evaluation if isinstance(stage, RlStage) else None,
        inputs=inputs,
        notes=notes,
    )


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
