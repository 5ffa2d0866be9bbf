"""Whether the two tasks pull the parameters the same way. In: a state and a step's batch; out: cosine and norms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from corl_jax.core.types import Params, PolicyBatch
from corl_jax.engine.optim import widen
from corl_jax.engine.state import TrainState, merge
from corl_jax.engine.update import check_rows, split_rows

TaskLoss = Callable[[Params, str, PolicyBatch, Any], jax.Array]
"""``(params, task, batch of the task, algo) -> weighted loss``, a sum over rows."""


class GradInterference:
    """Gradients of each task alone at the parameters before an update, on the rollouts of that update."""

    def __init__(self, loss: TaskLoss, microbatches: int):
        self._microbatches = microbatches
        self._program = jax.jit(
            lambda trainable, frozen, algo, batch: _compare(loss, trainable, frozen, algo, batch)
        )

    def __call__(self, state: TrainState, batch: Mapping[str, PolicyBatch]) -> dict[str, Any]:
        """Scalars on the device, none where there is one task alone.

        ``grad_interference/cosine`` is 1 where both gradients point the same way and below 0 where a small step for one
        task undoes the other's; ``grad_interference/image_norm`` and ``text_norm`` tell which of them rules the sum.

        Raises:
          UserError: rows do not divide by the number of micro-batches.
        """
        if len(batch) < 2:
            return {}
        if self._microbatches > 1:
            check_rows(batch, self._microbatches)
        parts = split_rows(batch, self._microbatches)
        return self._program(state.trainable, state.frozen, state.algo, parts)


def _compare(
    loss: TaskLoss, trainable: Params, frozen: Params, algo: Any, parts: Any
) -> dict[str, jax.Array]:
    def gradient(task: str) -> Params:
        def summed(trainable: Params, part: PolicyBatch) -> jax.Array:
            return loss(merge(trainable, frozen), task, part, algo)

        def add(total: Params, part: PolicyBatch) -> tuple[Params, None]:
            return jax.tree.map(jnp.add, total, widen(jax.grad(summed)(trainable, part))), None

        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), trainable)
        return jax.lax.scan(add, zeros, parts[task])[0]

    image, text = gradient("image"), gradient("text")
    norms = optax.tree.norm(image), optax.tree.norm(text)
    cosine = optax.tree.vdot(image, text) / jnp.maximum(
        norms[0] * norms[1], jnp.finfo(jnp.float32).tiny
    )
    return {
        "grad_interference/cosine": cosine,
        "grad_interference/image_norm": norms[0],
        "grad_interference/text_norm": norms[1],
    }
