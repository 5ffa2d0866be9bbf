"""What the training loop requires of anything that trains; the classes are in ``corl_jax.stages``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import grain
import jax

from corl_jax.core.numerics import Metrics
from corl_jax.core.types import Params
from corl_jax.engine.state import TrainState

HostMetrics = dict[str, float]
"""Scalars that the host knows before the update runs: rewards, lengths, seconds under ``time/``."""


class Stage(Protocol):
    """One kind of training: how its batches come to be, and its loss.

    Attributes:
      name: written into the manifest of every checkpoint, e.g. ``"sft"``.
    """

    name: str

    def init_state(self) -> TrainState:
        """A new train state on the mesh, after import or handoff.

        A resumed run takes its shapes and shardings only.
        """
        ...

    def data_iterator(self) -> grain.DatasetIterator:
        """Endless raw batches from the first one on; checkpoints save its position."""
        ...

    def record_ids(self, step: int) -> tuple[str, ...]:
        """Ids of the records of raw batch number ``step``, for errors."""
        ...

    def batches(self, state: TrainState, raw: Any, step: int) -> Iterator[tuple[Any, HostMetrics]]:
        """Turns a raw batch into the batches of one or more updates.

        Args:
          state: before the step. The first update donates it, so read it before the first ``yield``.
          raw: the raw batch number ``step``.
          step: steps done so far, 0 at the first one. Random streams are folded with it.

        Yields:
          a batch for ``loss``, and metrics. The batch is a pytree whose arrays share a leading row
          axis per task; leaves may be None. Metrics of a later batch of the same step replace those
          of an earlier one.
        """
        ...

    def loss(self, params: Params, batch: Any, algo: Any) -> tuple[jax.Array, Metrics]:
        """A weighted sum over the rows of ``batch``, and metrics that add up.

        Runs inside the jitted update.

        Args:
          params: trainable and frozen parameters in one flat dictionary.
          batch: what ``batches`` yields, or a micro-batch of it with an equal share of the rows.
          algo: the state of the algorithm, e.g. a KL coefficient.
        """
        ...

    def update_algo_state(self, algo: Any, metrics: Metrics) -> Any:
        """The next ``algo``, with the same tree, shapes and dtypes.

        Pure; runs inside the jitted update.
        """
        ...
