"""What the arms of a study of the order of tasks say: backward transfer, and the order it prescribes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from corl_jax.studies.comparison import Cell, Expectation, Study
from corl_jax.studies.task_order import (
    TaskOrder,
    backward_transfer,
    forgettability,
    prescribe_order,
)


class Forgetting(NamedTuple):
    """Figures of a study of the order of tasks.

    Attributes:
      spec: the tasks and arms of the study.
      transfer: row ``i``, column ``j``: what training task ``i`` alone added to the metric of task
        ``j``, over the seeds that both arms have.
      forgotten: what each task loses on average while one of the others is trained.
      order: the tasks as the figures prescribe them, the least forgettable first.
      arm, reverse: the arms that train the tasks in this order, and in its reverse.
      ranks: all measured sequences of tasks from the highest score to the lowest, by arm.
    """

    spec: TaskOrder
    transfer: tuple[tuple[Cell, ...], ...]
    forgotten: tuple[float, ...]
    order: tuple[str, ...]
    arm: str
    reverse: str
    ranks: tuple[str, ...]

    @property
    def rank(self) -> int | None:
        """Place of the prescribed order among those that are measured; None before it is."""
        return self.ranks.index(self.arm) + 1 if self.arm in self.ranks else None


def measure_forgetting(study: Study, cells: Mapping[str, Mapping[str, Cell]]) -> Forgetting | None:
    """The figures of a study of the order of tasks.

    Args:
      study: what is compared.
      cells: results by arm and column.

    Returns:
      None for another study, and until the policy before training and every task alone are
      measured.
    """
    order = study.order
    if order is None or not {order.before, *order.alone.values()} <= cells.keys():
        return None

    # Seed by seed; the order follows from the means, whose losses are less noise than those of one.
    columns = [order.columns[task] for task in order.tasks]
    rows = [cells[order.alone[task]] for task in order.tasks]
    seeds = min(len(row[columns[0]].values) for row in rows)
    by_seed = np.array(
        [
            backward_transfer(
                np.array([cells[order.before][name].values[seed] for name in columns]),
                np.array([[row[name].values[seed] for name in columns] for row in rows]),
            )
            for seed in range(seeds)
        ]
    )
    forgotten = forgettability(by_seed.mean(axis=0))
    best = prescribe_order(order.tasks, forgotten)

    places = range(len(order.tasks))
    sequences = [arm for arm in order.sequences.values() if arm in cells]
    return Forgetting(
        spec=order,
        transfer=tuple(
            tuple(Cell.from_values(by_seed[:, i, j].tolist()) for j in places) for i in places
        ),
        forgotten=tuple(forgotten.tolist()),
        order=best,
        arm=order.sequences[best],
        reverse=order.sequences[best[::-1]],
        ranks=tuple(sorted(sequences, key=lambda arm: -cells[arm][order.score].mean)),
    )


def order_expectations(figures: Forgetting) -> tuple[Expectation, ...]:
    """The claim: the prescribed order exceeds its reverse and every rival in the score."""
    others = (figures.reverse, *figures.spec.rivals)
    return tuple(Expectation(figures.arm, "above", other, figures.spec.score) for other in others)


def forgetting_as_json(figures: Forgetting) -> dict[str, Any]:
    """The figures for ``study.json``: means over seeds, by trained task and by measured task."""
    tasks = figures.spec.tasks
    return {
        "transfer": {
            task: {other: cell.mean for other, cell in zip(tasks, row, strict=True)}
            for task, row in zip(tasks, figures.transfer, strict=True)
        },
        "forgettability": dict(zip(tasks, figures.forgotten, strict=True)),
        "prescribed": figures.order,
        "arm": figures.arm,
        "ranks": figures.ranks,
    }
