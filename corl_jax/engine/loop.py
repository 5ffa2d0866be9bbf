"""The one training loop: data to batches to updates, with everything else in hooks."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

import grain
import jax
from PIL import Image

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.errors import SharedError, StopRequested, UserError
from corl_jax.core.numerics import Metrics
from corl_jax.core.processes.agreement import on_all_processes
from corl_jax.core.sharding import Sharder, sharding_context
from corl_jax.core.trees import count
from corl_jax.engine.alarms import SKIPPED_UPDATES, AlarmConfig
from corl_jax.engine.checkpoints.checkpoint import Checkpointer
from corl_jax.engine.checkpoints.manifest import RunIdentity
from corl_jax.engine.checkpoints.step_folders import saved_steps
from corl_jax.engine.completions import StepSample
from corl_jax.engine.device_clock import DEVICE_CLOCK, DeviceTime
from corl_jax.engine.hooks import Hook, Preempted, Preemption
from corl_jax.engine.optim import Optimizer
from corl_jax.engine.recorder import Recorder, RecorderConfig
from corl_jax.engine.run_history import RunHistory
from corl_jax.engine.stage import HostMetrics, Stage
from corl_jax.engine.state import TrainState, abstract
from corl_jax.engine.trackers.collection import Trackers
from corl_jax.engine.update import make_update
from corl_jax.engine.workdir import Workdir

# So many steps in a row without a finite loss and gradient are no accident.
MAX_SKIPPED_STEPS = 3

# What the progress bar says until the numbers of the first step are there.
COMPILING = "compiling the first step"

# So many records of a step are named in an error.
NAMED_RECORDS = 16


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How long a run is, and how often it writes.

    Attributes:
      steps: of the whole run. Step ``s`` consumes raw batch ``s`` and may hold several updates.
      microbatches: parts of a batch whose gradients are added up one after another.
      save_every: steps between checkpoints; 0 saves at the end only.
      keep_checkpoints: newest checkpoints to keep.
      keep_completions: newest steps whose completions stay.
      progress_metrics: columns on the progress bar.
      alarms: columns to watch.
      fallback: whether to resume from an earlier checkpoint where the newest one is damaged.
      quiet: no progress bar.
    """

    steps: int
    microbatches: int = 1
    save_every: int = 0
    keep_checkpoints: int = 2
    keep_completions: int = 8
    progress_metrics: tuple[str, ...] = ("loss",)
    alarms: AlarmConfig = AlarmConfig()
    fallback: bool = False
    quiet: bool = False


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """A run that is ready to start or to resume.

    Attributes:
      stage: what to train.
      optimizer: of its parameters.
      cfg: how long and how often.
      workdir: from ``open_workdir``.
      model: config of the model as JSON, for the manifest.
      inputs: what the run reads beside its config, as JSON, for the manifest.
      notes: sentences for the user, printed before the first step.
      hooks: run between steps, in this order.
      sharder: mesh and sharding rules; None for one device.
      label: of the run, on its progress bar.
      trackers: what shows the rows beside ``metrics.jsonl``; whoever opened them closes them.
      history: of the starts of the run, on the first process; None for none.
    """

    stage: Stage
    optimizer: Optimizer
    cfg: LoopConfig
    workdir: Workdir
    model: Mapping[str, Any]
    hooks: tuple[Hook, ...] = ()
    sharder: Sharder | None = None
    inputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    label: str = "training"
    trackers: Trackers = dataclasses.field(default_factory=Trackers)
    history: RunHistory | None = None


class NotFinite(UserError):
    """Too many steps in a row had no finite loss and gradient.

    The state is that of the last update before them and is not saved again.
    """


@dataclasses.dataclass(frozen=True)
class StepResult:
    """``step`` steps are done; ``metrics`` is the row that was written for the last of them."""

    step: int
    metrics: dict[str, float]


def train(run: TrainingRun) -> Iterator[StepResult]:
    """Trains until all steps are done, resuming what the work directory holds.

    The numbers of a step are read after the next one was dispatched, so that the device does not
    wait for the host, unless a hook or a checkpoint needs them at once.

    Yields:
      one ``StepResult`` per step, after its row is on disk; a checkpoint is written meanwhile, and
        an error of it is raised at the next step or at the end. A new run whose hooks
      report at 0 also yields step 0; a run that is complete yields nothing.

    Raises:
      UserError: the checkpoint is damaged or of another model, there are no steps to do, or
        something cannot be written. What was saved is kept. After any other error in the middle of
        a run the last whole step is saved.
      NotFinite: updates of ``MAX_SKIPPED_STEPS`` steps in a row were skipped.
      Preempted: after SIGTERM or SIGINT, once the current step is saved.
    """
    cfg, stage = run.cfg, run.stage
    if cfg.steps < 1:
        raise UserError(f"config.steps must be at least 1; got {cfg.steps}")
    saved_step = max(saved_steps(run.workdir.checkpoints), default=None)
    # A run that is complete is read again only to find out whether it is damaged.
    if saved_step is not None and saved_step >= cfg.steps and not cfg.fallback:
        return

    with _mesh_context(run.sharder), _Session(run, saved_step) as session:
        state, data, first_step = session.first_state, session.data, session.first_step
        frozen = state.frozen
        update = make_update(
            stage.loss, stage.update_algo_state, run.optimizer, cfg.microbatches, state
        )
        if first_step == 0 and session.is_hook_due(0, is_last=False):
            session.recorder.show_status("measuring before the first step")
            yield session.finish(_PendingStep(0, [], {}), state, is_last=False)
        session.recorder.show_status(COMPILING)

        pending: _PendingStep | None = None
        for step in range(first_step, cfg.steps):
            session.whole_step = _WholeStep(step, state, data.get_state(), pending)
            for hook in run.hooks:
                hook.before_step(step)

            # One step: the stage samples or reads, the update trains.
            session.check_saving()
            begin = time.perf_counter()
            raw = on_all_processes(lambda: next(data))
            updates: list[Metrics] = []
            update_times: list[DeviceTime] = []
            host_metrics: HostMetrics = {"time/data": time.perf_counter() - begin}
            for batch, scalars in stage.batches(state, raw, step):
                session.release_state()
                update_begin = time.perf_counter()
                state, metrics = update(state.with_frozen({}), frozen, batch)
                update_times.append(DEVICE_CLOCK.time(update_begin, metrics))
                state = state.with_frozen(frozen)
                updates.append(metrics)
                host_metrics.update(scalars)

            # The previous step's numbers are there by now.
            if pending is not None:
                yield session.finish(pending)
            pending = _PendingStep(step + 1, updates, host_metrics, tuple(update_times))
            session.whole_step = _WholeStep(step + 1, state, data.get_state(), pending)

            is_last, must_stop = step + 1 == cfg.steps, session.preemption.requested()
            must_save = is_last or must_stop
            is_save_due = cfg.save_every > 0 and (step + 1) % cfg.save_every == 0
            if must_save or is_save_due or session.is_hook_due(step + 1, is_last):
                result = session.finish(pending, state, is_last)
                pending = None
                # While updates are skipped, copies of one state must not crowd out older ones.
                if must_save or (is_save_due and not session.recorder.skipped_steps):
                    session.save(step + 1, state)
                if must_save:
                    session.wait_for_checkpoint()
                yield result
            if must_stop and not is_last:
                session.stop(step + 1)


def _mesh_context(sharder: Sharder | None) -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext() if sharder is None else sharding_context(sharder)


@dataclasses.dataclass(frozen=True)
class _PendingStep:
    """A step whose updates are dispatched and whose numbers are still on the device."""

    step: int
    updates: list[Metrics]
    host_metrics: HostMetrics
    update_times: tuple[DeviceTime, ...] = ()

    def row(self) -> dict[str, float]:
        """Waits for the numbers. Metrics of several updates add up before they are divided."""
        sums: dict[str, tuple[float, float]] = {}
        for metrics in jax.device_get(self.updates):
            for name, metric in metrics.items():
                total, weight = sums.get(name, (0.0, 0.0))
                sums[name] = (total + float(metric.sum), weight + float(metric.weight))
        if shared := sorted(sums.keys() & self.host_metrics.keys()):
            raise ValueError(f"metrics {shared} come from the host and from the update")

        means = {name: total / weight if weight else 0.0 for name, (total, weight) in sums.items()}
        # Of updates that were skipped the step has their number.
        if SKIPPED_UPDATES in sums:
            means[SKIPPED_UPDATES] = sums[SKIPPED_UPDATES][0]
        row = means | {name: float(value) for name, value in self.host_metrics.items()}
        if self.update_times:
            row["time/update"] = sum(timing.seconds() for timing in self.update_times)
        return row


@dataclasses.dataclass(frozen=True)
class _WholeStep:
    """What a run can be saved as when something goes wrong in the step after.

    Attributes:
      step: steps that are done.
      state: after them; its arrays are gone once the next update has begun.
      position: of the data.
      pending: a step whose row is not written yet.
    """

    step: int
    state: TrainState
    position: Any
    pending: _PendingStep | None

    def is_there(self) -> bool:
        """Whether ``state`` has not been given to the next update."""
        return not any(leaf.is_deleted() for leaf in jax.tree.leaves(self.state))


class _Session:
    """Everything a run has open: writers, checkpoints, hooks, data, signal handlers."""

    def __init__(self, run: TrainingRun, saved_step: int | None):
        """Starts anew, or restores the newest checkpoint where ``saved_step`` is one."""
        self.run, cfg, workdir = run, run.cfg, run.workdir
        config = dict(JsonObject.read(workdir.config).entries)
        identity = RunIdentity(run.stage.name, dict(run.model), config, dict(run.inputs))
        self.checkpointer = Checkpointer(workdir.checkpoints, identity, cfg.keep_checkpoints)

        self.data: grain.DatasetIterator = run.stage.data_iterator()
        self.first_step, self.first_state = 0, run.stage.init_state()
        notes = run.notes
        if saved_step is not None:
            # Of the new state only shapes and what never changes are needed; its other arrays make
            # room for the saved ones.
            shapes, frozen = abstract(self.first_state), self.first_state.frozen
            del self.first_state
            restored = self.checkpointer.restore(shapes, self.data, cfg.fallback, frozen)
            self.first_step, self.first_state = restored.step, restored.state
            notes += restored.notes

        shown = RecorderConfig(
            cfg.steps,
            cfg.progress_metrics,
            cfg.alarms,
            cfg.keep_completions,
            run.label,
            cfg.quiet,
        )
        steps_done = -1 if saved_step is None else self.first_step
        self.recorder = Recorder(workdir, shown, steps_done, run.trackers, run.history)
        for note in notes:
            self.recorder.log(note)
        if saved_step is not None:
            self.recorder.log(f"resuming {workdir} from step {self.first_step}")
        trainable, total = count(self.first_state.trainable), count(self.first_state.params)
        self.recorder.log(f"training {trainable:,} of {total:,} parameters")
        self.preemption = Preemption()
        self.whole_step: _WholeStep | None = None
        self.last_finish, self.held_seconds = time.perf_counter(), 0.0

    def __enter__(self) -> _Session:
        self.preemption.__enter__()
        self.last_finish = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if isinstance(error, UserError | StopRequested):
                self._save_whole_step(error)
        finally:
            self.preemption.__exit__(kind, error, trace)
            for hook in self.run.hooks:
                hook.close()
            try:
                # Whoever interrupts a run twice does not want to wait.
                self.checkpointer.close(wait=not isinstance(error, KeyboardInterrupt))
            except UserError as second_error:
                if error is None:
                    raise
                self.recorder.log(str(second_error))
            finally:
                self.recorder.close()

    def _save_whole_step(self, error: UserError | StopRequested) -> None:
        """Saves what ``error`` has not touched, and ends the run with that news.

        Raises:
          UserError: the error, and that a step is saved. On several processes only an error that all
            of them have leads to a checkpoint, since they write it together.
          Preempted: for a signal to stop.
        """
        whole = self.whole_step
        is_shared = jax.process_count() == 1 or isinstance(error, SharedError | StopRequested)
        if whole is None or not is_shared or not whole.is_there():
            return
        message = str(error).rstrip(".")
        if whole.step > 0:
            try:
                if whole.pending is not None:
                    self.finish(whole.pending)
                self.data.set_state(whole.position)
                self.save(whole.step, whole.state)
                self.wait_for_checkpoint()
            except UserError as second_error:
                message = f"{message or 'asked to stop'}; and the run cannot be saved"
                raise UserError(f"{message}: {second_error}") from error

        if isinstance(error, StopRequested):
            self.stop(whole.step)
        if whole.step > 0:
            raise UserError(
                f"{message}. Step {whole.step} of {self.run.cfg.steps} is saved in "
                f"{self.checkpointer.folder}; run the same command again, corrected, to go on"
            ) from error

    def is_hook_due(self, done: int, is_last: bool) -> bool:
        """Whether any hook runs after ``done`` steps."""
        return any(hook.is_due(done, is_last) for hook in self.run.hooks)

    def finish(
        self, pending: _PendingStep, state: TrainState | None = None, is_last: bool = False
    ) -> StepResult:
        """Reads a step's numbers, adds those of the hooks that are due, and writes the row."""
        row = pending.row()
        now = time.perf_counter()
        row["time/step"], self.last_finish = now - self.last_finish, now
        row["time/checkpoint"], self.held_seconds = self.held_seconds, 0.0

        images: dict[str, Image.Image] = {}
        samples: list[StepSample] = []
        for hook in self.run.hooks:
            if state is not None and hook.is_due(pending.step, is_last):
                report = hook.run(pending.step, state)
                row.update(report.metrics)
                images.update(report.images)
                samples.extend(report.samples)
        with self._writing():
            complete_row = on_all_processes(
                lambda: self.recorder.record(pending.step, row, images, samples)
            )
            if self.recorder.skipped_steps >= MAX_SKIPPED_STEPS:
                raise self._not_finite_error(pending.step)
        if self.whole_step is not None and self.whole_step.pending is pending:
            self.whole_step = dataclasses.replace(self.whole_step, pending=None)
        return StepResult(pending.step, complete_row)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """A block after whose errors nothing more is to be saved."""
        whole, self.whole_step = self.whole_step, None
        yield
        self.whole_step = whole

    def save(self, step: int, state: TrainState) -> None:
        """Writes a checkpoint, after the rows that it must not be ahead of."""
        with self._writing(), self._holding():
            on_all_processes(self.recorder.flush)
            self.checkpointer.save(step, state, self.data)
        self.last_finish = time.perf_counter()

    def release_state(self) -> None:
        """Returns once the state that is being saved may be donated."""
        with self._holding():
            self.checkpointer.release()

    def check_saving(self) -> None:
        """Raises the error of the checkpoint that is being written, if it has one already."""
        with self._writing(), self._holding():
            self.checkpointer.check()

    def wait_for_checkpoint(self) -> None:
        """Returns once the newest checkpoint is complete."""
        self.recorder.show_status("writing the checkpoint")
        with self._writing():
            self.checkpointer.wait()

    @contextlib.contextmanager
    def _holding(self) -> Iterator[None]:
        """A block whose seconds a checkpoint holds the loop for."""
        begin = time.perf_counter()
        yield
        self.held_seconds += time.perf_counter() - begin

    def _not_finite_error(self, step: int) -> NotFinite:
        """The error after too many steps without a finite update."""
        self.checkpointer.wait()
        ids = self.run.stage.record_ids(step - 1)
        names = ", ".join(map(repr, ids[:NAMED_RECORDS]))
        more = f" and {len(ids) - NAMED_RECORDS} more" if len(ids) > NAMED_RECORDS else ""
        saved = max(saved_steps(self.run.workdir.checkpoints), default=None)
        kept = "no checkpoint was saved before" if saved is None else f"checkpoint {saved} is kept"
        return NotFinite(
            f"step {step} is number {self.recorder.skipped_steps} in a row without a finite loss "
            f"and gradient, and its updates were skipped; its records are {names}{more}, and {kept}. "
            "Look at these records and their rewards; if they are right, start again with a lower "
            "config.optim.learning_rate in another --workdir"
        )

    def stop(self, step: int) -> None:
        """Ends a run that was asked to stop.

        Raises:
          Preempted: always.
        """
        self.recorder.log(
            f"asked to stop: step {step} of {self.run.cfg.steps} is saved in "
            f"{self.checkpointer.folder}; run the same command again to resume"
        )
        raise Preempted(step)
