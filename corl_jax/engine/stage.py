"""What the loop asks of anything that trains; implemented in ``corl_jax.stages``.

In: nothing. Out: the ``Stage`` protocol and the type of its host-side metrics.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import grain
import jax

from corl_jax.core.numerics import Metrics
from corl_jax.core.types import Params
from corl_jax.engine.state import TrainState

HostMetrics = dict[str, float]
"""Scalars that are known on the host before the update runs: rewards, lengths, seconds under ``time/``."""


class Stage(Protocol):
    """One kind of training: how a batch comes to be and how it is scored.

    Attributes:
      name: written into the manifest of every checkpoint, e.g. ``"sft"``.
    """

    name: str

    def init(self) -> TrainState:
        """A fresh state, after import or handoff, placed on the mesh; a resumed run takes its shapes and placement."""
        ...

    def data(self) -> grain.DatasetIterator:
        """Endless raw batches, from the first one on. Its position is saved with every checkpoint."""
        ...

    def batches(self, state: TrainState, raw: Any, step: int) -> Iterator[tuple[Any, HostMetrics]]:
        """Turns one raw batch into one or more update batches.

        Args:
          state: as it is before the step. The first update donates it, so read it before the first ``yield``.
          raw: the raw batch number ``step``.
          step: steps done before this one; 0 for the first. Random streams are folded with it.

        Yields:
          a batch for ``loss`` and what to log. The batch is a pytree whose array leaves share a leading row axis per
          task; ``None`` leaves are allowed. Scalars of a later batch of the same step replace those of an earlier one.
        """
        ...

    def loss(self, params: Params, batch: Any, algo: Any) -> tuple[jax.Array, Metrics]:
        """Plain weighted sum over the rows of ``batch``, and metrics that add. Runs inside the jitted update.

        Args:
          params: trainable and frozen parameters in one flat dictionary.
          batch: what ``batches`` yielded, or an equal share of its rows when the update is micro-batched.
          algo: the algorithm's own state, e.g. a KL coefficient.
        """
        ...

    def after(self, algo: Any, metrics: Metrics) -> Any:
        """The next ``algo``: same tree, shapes and dtypes. Pure; runs inside the jitted update."""
        ...
