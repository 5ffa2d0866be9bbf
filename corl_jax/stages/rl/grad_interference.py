"""Whether the two tasks pull the parameters the same way: cosine and norms of their gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from corl_jax.core.microbatches import check_rows, split_rows
from corl_jax.core.types import Params, PolicyBatch
from corl_jax.engine.optim import widen
from corl_jax.engine.state import TrainState, merge
from corl_jax.stages.rl.config_blocks import TASKS
from corl_jax.stages.rl.parts import parts_of

Batch = Mapping[str, PolicyBatch]
"""Part to its rows."""
BatchLoss = Callable[[Params, Batch, Any], jax.Array]
"""``(params, parts, algo) -> weighted loss``, a sum over rows."""


class GradInterference:
    """Gradients of each task alone at the parameters before an update, on that update's rollouts."""

    def __init__(self, loss: BatchLoss, microbatches: int):
        self._microbatches = microbatches
        self._program = jax.jit(
            lambda trainable, frozen, algo, parts: _compare(loss, trainable, frozen, algo, parts)
        )

    def __call__(self, state: TrainState, batch: Batch) -> dict[str, Any]:
        """Scalars on the device; none where there is only one task.

        ``grad_interference/cosine`` is 1 where both gradients have one direction, and below 0 where
        a small step for one task undoes the other's. ``grad_interference/image_norm`` and
        ``text_norm`` say which of them dominates the sum.

        Raises:
          UserError: rows do not divide by the number of micro-batches.
        """
        if not all(task in batch for task in TASKS):
            return {}
        if self._microbatches > 1:
            check_rows(batch, self._microbatches)
        parts = split_rows(batch, self._microbatches)
        return self._program(state.trainable, state.frozen, state.algo, parts)


def _compare(
    loss: BatchLoss,
    trainable: Params,
    frozen: Params,
    algo: Any,
    parts: Batch,
) -> dict[str, jax.Array]:
    """Cosine and norms of the gradients of ``parts``, which have a leading axis of micro-batches."""

    def gradient(task: str) -> Params:
        def task_loss(trainable: Params, rows: Batch) -> jax.Array:
            return loss(merge(trainable, frozen), rows, algo)

        def add_rows(total: Params, rows: Batch) -> tuple[Params, None]:
            grads = widen(jax.grad(task_loss)(trainable, rows))
            return jax.tree.map(jnp.add, total, grads), None

        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), trainable)
        of_task = {name: parts[name] for name in parts_of(task, parts)}
        return jax.lax.scan(add_rows, zeros, of_task)[0]

    # Both gradients are held at once, which is what this hook costs in memory.
    image, text = gradient("image"), gradient("text")
    image_norm, text_norm = optax.tree.norm(image), optax.tree.norm(text)
    smallest = jnp.finfo(jnp.float32).tiny
    cosine = optax.tree.vdot(image, text) / jnp.maximum(image_norm * text_norm, smallest)
    return {
        "grad_interference/cosine": cosine,
        "grad_interference/image_norm": image_norm,
        "grad_interference/text_norm": text_norm,
    }
