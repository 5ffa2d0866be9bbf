"""The jitted update: gradients added up over micro-batches, AdamW, and the state of the algorithm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from corl_jax.core.errors import UserError
from corl_jax.core.numerics import Metrics, Weighted
from corl_jax.core.types import Params
from corl_jax.engine.optim import Optimizer, widen
from corl_jax.engine.state import TrainState, merge

Loss = Callable[[Params, Any, Any], tuple[jax.Array, Metrics]]
"""``(params, batch, algo) -> (weighted sum over rows, metrics)``."""

UpdateAlgoState = Callable[[Any, Metrics], Any]
"""``(algo, metrics) -> algo``."""

UPDATE_METRICS = ("loss", "grad_norm", "update_norm", "param_norm", "learning_rate")
"""Metrics that every update writes by itself."""


def make_update(
    loss: Loss,
    update_algo_state: UpdateAlgoState,
    optimizer: Optimizer,
    microbatches: int,
    state: TrainState,
) -> jax.stages.Wrapped:
    """The jitted function ``update(state, frozen, batch) -> (state, metrics)``.

    Its arguments are the state without its frozen parameters (``state.with_frozen({})``), which is
    donated; the frozen parameters, which are not; and a pytree whose arrays have a leading row axis
    (leaves may be None). It returns the next state, with the shardings of the old one, and the
    stage's metrics with ``loss``, ``grad_norm`` (before clipping), ``update_norm``, ``param_norm``
    (after the update) and ``learning_rate``.

    Args:
      loss: of a stage; see ``stage.Stage``.
      update_algo_state: of the same stage.
      optimizer: from ``optim.make_optimizer``.
      microbatches: equal parts of the batch whose gradients are added up one after another.
      state: of the run, or its ``abstract``; read for its shardings.

    Raises:
      UserError: fewer than one micro-batch; when called, rows that do not divide into them.
    """
    if microbatches < 1:
        raise UserError(f"microbatches must be at least 1; got {microbatches}")

    def update(state: TrainState, frozen: Params, batch: Any) -> tuple[TrainState, Metrics]:
        state = state.with_frozen(frozen)
        total_loss, metrics, grads = gradients(loss, state, batch, microbatches)
        if reserved := sorted(set(metrics) & set(UPDATE_METRICS)):
            raise ValueError(f"the stage's metrics {reserved} have names that the update writes")

        # One step of AdamW. The rate follows the state's step, so that a resumed run has the same.
        learning_rate = optimizer.learning_rate(state.step)
        direction, opt_state = optimizer.direction(grads, state.opt_state, state.trainable)
        change = jax.tree.map(lambda leaf: -learning_rate * leaf, direction)
        trainable = optax.apply_updates(state.trainable, change)

        metrics = metrics | {
            "loss": _weighted(total_loss),
            "grad_norm": _weighted(optax.tree.norm(grads)),
            "update_norm": _weighted(optax.tree.norm(change)),
            "param_norm": _weighted(optax.tree.norm(widen(trainable))),
            "learning_rate": _weighted(learning_rate),
        }
        step, reference = state.step + 1, state.reference
        next_state = TrainState(
            step=step,
            trainable=trainable,
            frozen={},
            opt_state=opt_state,
            algo=update_algo_state(state.algo, metrics),
            previous=state.trainable if state.previous else {},
            reference=None if reference is None else reference.follow(trainable, step),
        )
        return next_state, metrics

    shardings = jax.tree.map(lambda leaf: leaf.sharding, state.with_frozen({}))
    return jax.jit(update, donate_argnums=0, out_shardings=(shardings, None))


def gradients(
    loss: Loss, state: TrainState, batch: Any, microbatches: int
) -> tuple[jax.Array, Metrics, Params]:
    """Loss, metrics and gradient of the whole batch, each a sum over its micro-batches."""

    def of_part(part: Any) -> tuple[jax.Array, Metrics, Params]:
        (part_loss, metrics), grads = jax.value_and_grad(
            lambda trainable: loss(merge(trainable, state.frozen), part, state.algo), has_aux=True
        )(state.trainable)
        return widen(part_loss), metrics, widen(grads)

    if microbatches == 1:
        return of_part(batch)

    # A scan holds the activations of one micro-batch at a time.
    check_rows(batch, microbatches)
    parts = split_rows(batch, microbatches)
    shapes = jax.eval_shape(of_part, jax.tree.map(lambda leaf: leaf[0], parts))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def add_part(total: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, of_part(part)), None

    return jax.lax.scan(add_part, zeros, parts)[0]


def check_rows(batch: Any, microbatches: int) -> None:
    """Raises UserError naming the first leaf of ``batch`` whose rows do not divide."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        if leaf.ndim == 0 or leaf.shape[0] % microbatches:
            raise UserError(
                f"batch{jax.tree_util.keystr(path)} of shape {tuple(leaf.shape)} must divide into "
                f"{microbatches} micro-batches; choose a number that divides its rows"
            )


def split_rows(batch: Any, microbatches: int) -> Any:
    """Every leaf ``[N, ...]`` as ``[microbatches, N / microbatches, ...]``.

    Micro-batch ``i`` takes the rows ``i, i + microbatches, ...``: with such a stride each one is
    spread over the devices like the whole batch, without moving data.
    """

    def split(leaf: jax.Array) -> jax.Array:
        rows = leaf.shape[0] // microbatches
        return jnp.swapaxes(leaf.reshape(rows, microbatches, *leaf.shape[1:]), 0, 1)

    return jax.tree.map(split, batch)


def _weighted(value: jax.Array) -> Weighted:
    """A metric of one value with weight 1."""
    return Weighted(value, jnp.ones((), jnp.float32))
