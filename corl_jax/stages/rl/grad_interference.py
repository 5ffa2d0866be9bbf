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

TaskLoss = Callable[[Params, str, PolicyBatch, Any], jax.Array]
"""``(params, task, batch of the task, algo) -> weighted loss``, a sum over rows."""


class GradInterference:
    """Gradients of each task alone at the parameters before an update, on that update's rollouts."""

    def __init__(self, loss: TaskLoss, microbatches: int):
        self._microbatches = microbatches
        self._program = jax.jit(
            lambda trainable, frozen, algo, parts: _compare(loss, trainable, frozen, algo, parts)
        )

    def __call__(self, state: TrainState, batch: Mapping[str, PolicyBatch]) -> dict[str, Any]:
        """Scalars on the device; none where there is only one task.

        ``grad_interference/cosine`` is 1 where both gradients have one direction, and below 0 where
        a small step for one task undoes the other's. ``grad_interference/image_norm`` and
        ``text_norm`` say which of them dominates the sum.

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
    loss: TaskLoss,
    trainable: Params,
    frozen: Params,
    algo: Any,
    parts: Mapping[str, PolicyBatch],
) -> dict[str, jax.Array]:
    """Cosine and norms of the gradients of ``parts``, which have a leading axis of micro-batches."""

    def gradient(task: str) -> Params:
        def part_loss(trainable: Params, part: PolicyBatch) -> jax.Array:
            return loss(merge(trainable, frozen), task, part, algo)

        def add_part(total: Params, part: PolicyBatch) -> tuple[Params, None]:
            grads = widen(jax.grad(part_loss)(trainable, part))
            return jax.tree.map(jnp.add, total, grads), None

        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), trainable)
        return jax.lax.scan(add_part, zeros, parts[task])[0]

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
