"""The held-out records of a run, for probes and evaluations: which of them, and whether they can be used."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

from corl_jax.core.errors import UserError
from corl_jax.core.types import Record
from corl_jax.data.pipeline import held_out_order, held_out_records
from corl_jax.data.records import TASK_FIELDS, has_fields
from corl_jax.data.sources.base import MemorySource, RecordSource
from corl_jax.data.unusable_records import Check, usable_rows

Rewards = Mapping[str, Iterable[str]]
"""Task to the names of its rewards."""


class HeldOutRecords:
    """Records that training never sees. They are opened once, on first use.

    A record may lack a caption or a question; it then takes part in what it has.

    Attributes:
      is_open: whether they have been.
    """

    is_open = False

    def __init__(
        self,
        open_records: Callable[[Sequence[Check]], RecordSource],
        record_checks: Callable[[Rewards], Mapping[str, Sequence[Check]]],
        rewards: Rewards,
        task_fields: Mapping[str, Sequence[str]] = TASK_FIELDS,
    ):
        """Opens nothing yet.

        Args:
          open_records: opens them with checks of their texts.
          record_checks: what tasks and rewards need of texts.
          rewards: of the run, of both tasks.
          task_fields: task to what it needs of a record.
        """
        self._task_fields = task_fields
        self._open, self._record_checks, self._rewards = open_records, record_checks, rewards

    @functools.cached_property
    def source(self) -> RecordSource:
        """All of them."""
        source = self._open(self._checks(self._rewards))
        self.is_open = True
        return source

    def first(self, n: int, seed: int) -> tuple[Record, ...]:
        """The first ``n`` in the order of a seed, ``config.evals.num_records``.

        Raises:
          UserError: there are fewer.
        """
        if n > len(self.source):
            raise UserError(
                f"config.evals.num_records must be at most the {len(self.source)} held-out records; "
                f"got {n}. Lower it, or hold out more (config.data.held_out)"
            )
        return held_out_records(self.source, n, seed)

    def at_most(self, n: int, seed: int) -> tuple[Record, ...]:
        """Those of ``first``, or all where there are fewer."""
        return held_out_records(self.source, min(n, len(self.source)), seed)

    def by_task(
        self, counts: Mapping[str, int], seed: int, trained: Iterable[str]
    ) -> dict[str, tuple[Record, ...]]:
        """For each task the first records that have what it needs, in the order of a seed.

        Args:
          counts: task to a number of records.
          seed: of the order.
          trained: tasks that must have their records. Another task has them if it finds them among
            those that were read, and is absent otherwise.

        Raises:
          UserError: there are too few records.
        """
        order = held_out_order(self.source, 1, seed)
        found: dict[str, list[Record]] = {task: [] for task in counts}
        trained = tuple(trained)
        for read, row in enumerate(order):
            is_done = all(len(found[task]) == counts[task] for task in trained)
            if is_done and read >= max(counts.values()):
                break
            record = self.source[row]
            for task, records in found.items():
                if len(records) < counts[task] and has_fields(record, self._task_fields[task]):
                    records.append(record)

        for task in trained:
            if len(found[task]) < counts[task]:
                raise UserError(
                    f"the held-out records must have {counts[task]} that the {task} task can use, "
                    f"as many as a step; got {len(found[task])} of {len(order)}. Hold out more "
                    "(config.data.held_out), or set --config.hooks.probe_every=0"
                )
        return {
            task: tuple(records) for task, records in found.items() if len(records) == counts[task]
        }

    def check(self, records: Iterable[Record], rewards: Rewards, *, is_whole: bool = False) -> None:
        """Finds records that cannot be used before training begins.

        Args:
          records: some of the held-out ones.
          rewards: task to rewards that are computed.
          is_whole: whether each record must have what all these tasks need.

        Raises:
          UserError: some cannot be used.
        """
        source = MemorySource({record.id: record for record in records}.values())
        checks = self._checks(rewards, is_whole=is_whole)
        usable_rows(source, range(len(source)), checks, label="held-out")

    def _checks(self, rewards: Rewards, *, is_whole: bool = False) -> list[Check]:
        return [
            check
            if is_whole
            else functools.partial(_check_if_possible, self._task_fields[task], check)
            for task, checks in self._record_checks(rewards).items()
            for check in checks
        ]


def check_enough(records: int, counts: Iterable[int]) -> None:
    """Checks that a share of so many records can be held out for all that needs some.

    Raises:
      UserError: more than half of them would be, or all.
    """
    needed = max(counts, default=0)
    if 2 * needed > records:
        raise UserError(
            f"evaluations and probes need {needed} held-out records, and there are {records} records "
            f"in all; set --config.evals.num_records and the prompts of a step to at most "
            f"{records // 4}, or both off (--config.evals.num_records=0 --config.hooks.probe_every=0)"
        )


def _check_if_possible(fields: Sequence[str], check: Check, record: Record) -> None:
    """``check`` for a record that has the ``fields`` that a task needs."""
    if has_fields(record, fields):
        check(record)
