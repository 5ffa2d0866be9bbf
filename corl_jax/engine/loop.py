"""The one loop: data to batches to updates, with everything else hung on hooks.

In: a ``Stage``, its ``Update``, a work directory. Out: a generator of steps; side by side the files of the run.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import jax
from PIL import Image

from corl_jax.core.errors import UserError
from corl_jax.core.numerics import Metrics
from corl_jax.core.trees import count
from corl_jax.engine.alarms import AlarmConfig
from corl_jax.engine.checkpoint import Checkpointer, saved_steps
from corl_jax.engine.hooks import Hook, Preempted, Preemption
from corl_jax.engine.manifest import RunIdentity
from corl_jax.engine.recorder import Recorder
from corl_jax.engine.stage import HostMetrics, Stage
from corl_jax.engine.state import TrainState, abstract
from corl_jax.engine.update import Update
from corl_jax.engine.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How long and how often.

    Attributes:
      steps: of the whole run; step ``s`` consumes raw batch ``s``, and may hold several updates.
      save_every: steps between checkpoints; 0 saves at the end only.
      keep: newest checkpoints to keep.
      tensorboard_every: steps between TensorBoard rows; 0 for none. ``metrics.jsonl`` has every step.
      show: columns on the progress bar.
      alarm: columns that must not stand still.
      quiet: no progress bar.
    """

    steps: int
    save_every: int = 0
    keep: int = 2
    tensorboard_every: int = 1
    show: tuple[str, ...] = ("loss",)
    alarm: AlarmConfig = AlarmConfig()
    quiet: bool = False


@dataclasses.dataclass(frozen=True)
class StepResult:
    """``step`` steps are done; ``metrics`` is the row that was written for the last of them."""

    step: int
    metrics: dict[str, float]


def train(
    stage: Stage,
    update: Update,
    cfg: LoopConfig,
    workdir: Workdir,
    model: Mapping[str, Any],
    hooks: Sequence[Hook] = (),
) -> Iterator[StepResult]:
    """Trains until ``cfg.steps`` are done, resuming what ``workdir`` holds; a complete run yields nothing.

    The numbers of a step are read after the next one was dispatched, unless a hook or a save wants them at once.

    Args:
      stage: what to train.
      update: ``make_update(stage.loss, stage.after, ...)``.
      cfg: how long and how often.
      workdir: from ``open_workdir``.
      model: config of the model as JSON, for the manifest.
      hooks: run between steps, in this order.

    Yields:
      one ``StepResult`` per step, after its row (and checkpoint) is on disk. A new run whose hooks report at 0 also
      yields step 0.

    Raises:
      UserError: the checkpoint is damaged or of another model, or ``cfg.steps`` is no length.
      Preempted: after SIGTERM or SIGINT, once the current step is saved.
    """
    if cfg.steps < 1:
        raise UserError(f"steps={cfg.steps} is no length of a run; expected 1 or more")
    newest = max(saved_steps(workdir.checkpoints), default=None)
    if newest is not None and newest >= cfg.steps:
        return
    config = json.loads(workdir.config.read_text())
    checkpointer = Checkpointer(
        workdir.checkpoints, RunIdentity(stage.name, dict(model), config), cfg.keep
    )
    data = stage.data()
    done, state = 0, stage.init()
    if newest is not None:
        like = abstract(state)
        del state
        done, state = checkpointer.restore(like, data)
    written = -1 if newest is None else done
    recorder = Recorder(
        workdir, cfg.steps, written, cfg.show, cfg.alarm, cfg.tensorboard_every, cfg.quiet
    )
    if newest is not None:
        recorder.say(f"resuming {workdir} from step {done}")
    recorder.say(f"training {count(state.trainable):,} of {count(state.params):,} parameters")
    try:
        with Preemption() as preemption:
            run = _Run(stage, update, cfg, recorder, checkpointer, tuple(hooks), preemption)
            yield from run.steps(state, data, done)
    finally:
        for hook in hooks:
            hook.close()
        recorder.close()
        checkpointer.close()


@dataclasses.dataclass(frozen=True)
class _Pending:
    """A step whose updates are dispatched and whose numbers are still on the device."""

    step: int
    updates: list[Metrics]
    host: HostMetrics

    def row(self) -> dict[str, float]:
        """Waits for the numbers. Metrics of several updates are added before they are divided."""
        sums: dict[str, tuple[float, float]] = {}
        for metrics in jax.device_get(self.updates):
            for name, metric in metrics.items():
                old = sums.get(name, (0.0, 0.0))
                sums[name] = (old[0] + float(metric.sum), old[1] + float(metric.weight))
        if both := sorted(sums.keys() & self.host.keys()):
            raise ValueError(f"metrics {both} come from the host and from the update")
        means = {name: total / weight if weight else 0.0 for name, (total, weight) in sums.items()}
        host = {name: float(value) for name, value in self.host.items()}
        return {**means, **host}


@dataclasses.dataclass
class _Run:
    """What stays the same from step to step, and the time when the last one was over."""

    stage: Stage
    update: Update
    cfg: LoopConfig
    recorder: Recorder
    checkpointer: Checkpointer
    hooks: tuple[Hook, ...]
    preemption: Preemption
    mark: float = dataclasses.field(default_factory=time.perf_counter)

    def steps(
        self, state: TrainState, data: grain.DatasetIterator, done: int
    ) -> Iterator[StepResult]:
        """The steps after ``done``."""
        if done == 0 and any(hook.due(0, False) for hook in self.hooks):
            yield self._finish(_Pending(0, [], {}), state, last=False)
        pending: _Pending | None = None
        for step in range(done, self.cfg.steps):
            for hook in self.hooks:
                hook.before(step)
            updates: list[Metrics] = []
            host: HostMetrics = {}
            for batch, scalars in self.stage.batches(state, next(data), step):
                state, metrics = self.update(state, batch)
                updates.append(metrics)
                host.update(scalars)
            if pending is not None:
                yield self._finish(pending)
            pending = _Pending(step + 1, updates, host)
            last, stop = step + 1 == self.cfg.steps, self.preemption.asked()
            save = (
                last or stop or (self.cfg.save_every > 0 and (step + 1) % self.cfg.save_every == 0)
            )
            if save or any(hook.due(step + 1, last) for hook in self.hooks):
                result = self._finish(pending, state, last)
                pending = None
                if save:
                    self.recorder.publish()
                    self.checkpointer.save(step + 1, state, data)
                    self.mark = time.perf_counter()
                yield result
            if stop and not last:
                self.recorder.say(
                    f"asked to stop: step {step + 1} of {self.cfg.steps} is saved in {self.checkpointer.folder}; "
                    f"run the same command again to resume"
                )
                raise Preempted(step + 1)

    def _finish(
        self, pending: _Pending, state: TrainState | None = None, last: bool = False
    ) -> StepResult:
        """Reads a step's numbers, lets the hooks that are due add theirs, and writes the row."""
        row = pending.row()
        now = time.perf_counter()
        row["time/step"], self.mark = now - self.mark, now
        pictures: dict[str, Image.Image] = {}
        for hook in self.hooks:
            if state is not None and hook.due(pending.step, last):
                report = hook.run(pending.step, state)
                row.update(report.numbers)
                pictures.update(report.pictures)
        return StepResult(pending.step, self.recorder.record(pending.step, row, pictures))
