"""How much learning one task takes from the others, and the order of tasks that follows from it.

Omni-Thinker (arXiv 2507.14783) trains tasks one after the other and begins with the one that is
forgotten least when others are trained. The paper orders them by backward transfer; its exact
definitions could not be read, so these are the usual ones.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64

from corl_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class TaskOrder:
    """Tasks that a study trains alone, and one after the other in every order.

    Attributes:
      before: arm of the policy that all training starts from.
      alone: task to the arm that trains it alone.
      columns: task to the column of the study that measures it.
      sequences: every order of the tasks, to the arm that trains them in this order.
      rivals: arms that train all tasks in another way.
      score: column by which orders and rivals are compared.
    """

    before: str
    alone: Mapping[str, str]
    columns: Mapping[str, str]
    sequences: Mapping[tuple[str, ...], str]
    rivals: tuple[str, ...]
    score: str

    def __post_init__(self):
        orders = set(itertools.permutations(self.alone))
        if self.columns.keys() != self.alone.keys() or self.sequences.keys() != orders:
            raise UserError(
                "a study of the order of tasks must have a column for every task and an arm for "
                f"every order of {', '.join(self.alone)}; got columns for "
                f"{', '.join(self.columns)} and {len(self.sequences)} of {len(orders)} orders. "
                "Add what is missing"
            )

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, in the order of rows and columns of the matrix."""
        return tuple(self.alone)

    @property
    def arms(self) -> tuple[str, ...]:
        """All arms that it names."""
        return (self.before, *self.alone.values(), *self.sequences.values(), *self.rivals)


def backward_transfer(
    before: Float64[np.ndarray, " tasks"], after: Float64[np.ndarray, "tasks tasks"]
) -> Float64[np.ndarray, "tasks tasks"]:
    """What training one task adds to the metric of each task.

    Args:
      before: the metric of each task before any training.
      after: row ``i`` has the metrics of all tasks after task ``i`` alone was trained.

    Returns:
      ``BWT_ij = after_ij - before_j``; on the diagonal is what a task gains by its own training.
    """
    return after - before


def forgettability(transfer: Float64[np.ndarray, "tasks tasks"]) -> Float64[np.ndarray, " tasks"]:
    """What each task loses while one of the others is trained: ``mean_{i != j} max(0, -BWT_ij)``."""
    losses = np.maximum(0.0, -transfer)
    # A task cannot forget itself.
    np.fill_diagonal(losses, 0.0)
    return losses.sum(axis=0) / (len(losses) - 1)


def prescribe_order(
    tasks: Sequence[str], forgotten: Float64[np.ndarray, " tasks"]
) -> tuple[str, ...]:
    """The tasks from the least to the most forgettable; equal ones stay in the order given."""
    return tuple(tasks[place] for place in np.argsort(forgotten, kind="stable"))
