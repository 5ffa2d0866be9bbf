"""The training records of a stage, and which of them a step has.

Without a mixture these are the records of ``config.data.source``, in an order that depends on the
seed alone. With one, every step has rows of all parts. Held-out records are always those of
``config.data.source``.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, TypeVar

import grain

from corl_jax.core.errors import UserError
from corl_jax.core.problems import Problems
from corl_jax.core.processes.agreement import on_all_processes
from corl_jax.data.mixing.epochs import Epochs
from corl_jax.data.mixing.history import HistoryIterator
from corl_jax.data.mixing.mixture import Mixture, Part
from corl_jax.data.mixing.quotas import Quotas
from corl_jax.data.mixing.row_order import MixedOrder, Stream
from corl_jax.data.pipeline import (
    Transform,
    batches,
    batches_in_order,
    ids_of_rows,
    record_ids,
)
from corl_jax.data.sources.base import RecordSource
from corl_jax.data.unusable_records import Check
from corl_jax.data.worker_images import with_workers
from corl_jax.stages.config import DataConfig, read_block
from corl_jax.stages.mixture_config import read_parts
from corl_jax.stages.setup import open_selection

T = TypeVar("T")


class TrainRecords:
    """Opens the training records of a stage and puts them in order.

    Attributes:
      batch_size: records of a step.
      text_offset: number of the first text record of a step: 0 where the tasks share records.
      order: which rows a step has; None without a mixture, where the order is that of
        ``data.pipeline.batches``.
    """

    def __init__(self, config: Mapping[str, Any], rows: Mapping[str, int], *, is_paired: bool):
        """Reads ``config.data``.

        Args:
          config: of any stage.
          rows: task to its records of a step, for the tasks that train.
          is_paired: whether the tasks must share their records.

        Raises:
          UserError: weights that leave a task without records, or that part what is paired.
        """
        self._data = read_block(DataConfig, config["data"], "data")
        self._quiet = False
        self._seed = config["seed"]
        starts = (0, *self._data.stages)

        # A part that no task of this stage uses is not read.
        self._parts, self._weights = {}, {}
        for name, part in read_parts(self._data).items():
            weights = {task: part.weights(task, len(starts)) for task in rows}
            if any(map(any, weights.values())):
                self._parts[name], self._weights[name] = part, weights
        if self._data.mixture:
            self._check_weights(tuple(rows), len(starts))

        # Tasks of equal weights share their records; others have a stream of their own each.
        self._tasks = tuple(rows)
        is_split = len({self._proportions(task) for task in rows}) > 1
        if is_split and is_paired:
            raise UserError(
                "config.data.mixture must have equal image_weight and text_weight where both tasks "
                "use the same records; got different ones. Make them equal, or in reinforcement "
                "learning choose config.rl.advantage.pairing='separate'"
            )
        groups = [(task,) for task in rows] if is_split else [tuple(rows)]
        # A stage without prompts is refused by whoever makes them.
        sizes = [max((rows[task] for task in group), default=0) for group in groups]
        self.batch_size, self.text_offset = sum(sizes), sizes[0] if is_split else 0
        self._streams = tuple(
            Stream(
                "+".join(group),
                Quotas.of_weights(
                    [weights[group[0]] for weights in self._weights.values()], starts, size
                ),
            )
            for group, size in zip(groups, sizes, strict=True)
            if self._parts
        )

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks whose records these are."""
        return self._tasks

    @property
    def addresses(self) -> set[str]:
        """Where the training records come from."""
        parts = self._parts.values()
        return {part.source for part in parts} if parts else {self._data.source}

    def open(self, checks: Mapping[str, Sequence[Check]]) -> RecordSource:
        """The training records, checked.

        Args:
          checks: task to what must be true of the texts of its records.

        Raises:
          UserError: missing data, or records that cannot be used.
        """
        if not self._parts:
            task_checks = _checks_of(checks, self._tasks)
            return open_selection(self._data, "train", task_checks, quiet=self._quiet)
        parts, problems = [], Problems()
        for name, part in self._parts.items():
            tasks = [task for task, values in self._weights[name].items() if any(values)]
            with problems.collect():
                open_part = functools.partial(
                    open_selection,
                    part.as_data(self._data),
                    "train",
                    _checks_of(checks, tasks),
                    key=f"data.mixture.{name}",
                    quiet=self._quiet,
                )
                parts.append(Part(name, on_all_processes(open_part)))
        problems.raise_if_any()
        return Mixture(parts)

    def without_checks(self) -> TrainRecords:
        """The same records, of which those that cannot be used are left out without a word."""
        copied = copy.copy(self)
        copied._data = dataclasses.replace(self._data, check="none", on_bad="drop")
        copied._quiet = True
        return copied

    def batches(self, records: RecordSource, transform: Transform[T]) -> grain.DatasetIterator[T]:
        """Endless batches of ``records``, which ``open`` gave."""
        order = self.order(records)
        records = with_workers(records, self._data.workers)
        if order is not None:
            return batches_in_order(records, order, transform=transform)
        return batches(records, seed=self._seed, batch_size=self.batch_size, transform=transform)

    def unsolved_batches(
        self, records: RecordSource, transform: Transform[T]
    ) -> HistoryIterator[T]:
        """Batches of records that are not solved yet, see ``data.mixing.history``.

        Raises:
          UserError: the tasks do not share their records.
        """
        if self.text_offset:
            raise UserError(
                "config.rl.curriculum.history='unsolved' needs tasks that share their records; got "
                "different image_weight and text_weight in config.data.mixture. Make them equal"
            )
        names = tuple(self._parts)
        offsets: tuple[int, ...] = (0, len(records))
        quotas = Quotas(((1,),), (0,), self.batch_size)
        if isinstance(records, Mixture):
            offsets, quotas = records.offsets, self._streams[0].quotas
        epochs = Epochs(names or ("",), offsets, quotas, self._seed)
        return HistoryIterator(with_workers(records, self._data.workers), epochs, transform)

    def order(self, records: RecordSource) -> MixedOrder | None:
        """The rows of a step; None without a mixture, where ``data.pipeline.batches`` has them."""
        if not isinstance(records, Mixture):
            return None
        return MixedOrder(tuple(self._parts), records.offsets, self._streams, self._seed)

    def record_ids(self, records: RecordSource, step: int) -> tuple[str, ...]:
        """Ids of the records of a step of ``batches``."""
        order = self.order(records)
        if order is not None:
            return ids_of_rows(records, order(step))
        return record_ids(records, seed=self._seed, batch_size=self.batch_size, step=step)

    def _check_weights(self, tasks: Sequence[str], stages: int) -> None:
        """Raises UserError where a task has no records in some stage."""
        for task in tasks:
            for stage in range(stages):
                if not any(weights[task][stage] for weights in self._weights.values()):
                    raise UserError(
                        f"config.data.mixture must have a part of positive {task}_weight in stage "
                        f"{stage + 1} of {stages}; got none. Raise one"
                    )

    def _proportions(self, task: str) -> tuple[tuple[Fraction, ...], ...]:
        """Part and stage to the share of the records of a task."""
        weights = [
            [Fraction(repr(float(weight))) for weight in weights[task]]
            for weights in self._weights.values()
        ]
        totals = [sum(stage) for stage in zip(*weights, strict=True)]
        return tuple(
            tuple(weight / total for weight, total in zip(part, totals, strict=True))
            for part in weights
        )


def _checks_of(checks: Mapping[str, Sequence[Check]], tasks: Sequence[str]) -> list[Check]:
    """The checks of some tasks, those of several tasks once."""
    return list(dict.fromkeys(check for task in tasks for check in checks[task]))
