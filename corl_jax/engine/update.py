"""The jitted update: gradients added up over micro-batches, AdamW, and the state of the algorithm.

An update whose loss or gradient is not finite is skipped: nothing of the state changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from corl_jax.core.errors import UserError
from corl_jax.core.microbatches import check_rows, split_rows
from corl_jax.core.numerics import Metrics, Weighted
from corl_jax.core.types import Params
from corl_jax.engine.alarms import SKIPPED_UPDATES
from corl_jax.engine.optim import Optimizer, widen
from corl_jax.engine.state import TrainState, merge

Loss = Callable[[Params, Any, Any], tuple[jax.Array, Metrics]]
"""``(params, batch, algo) -> (weighted sum over rows, metrics)``."""

UpdateAlgoState = Callable[[Any, Metrics], Any]
"""``(algo, metrics) -> algo``."""

UPDATE_METRICS = (
    "loss",
    "grad_norm",
    "update_norm",
    "param_norm",
    "learning_rate",
    SKIPPED_UPDATES,
)
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
    (after the update), ``learning_rate`` and ``skipped_updates``.

    Where loss, gradient or the algorithm's next state is not finite, the next state is the old one,
    bit for bit: parameters, moments, and every count of updates, so that schedules of the learning
    rate and of KL coefficients wait as well.

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

        grad_norm = optax.tree.norm(grads)
        metrics = metrics | {"loss": _weighted(total_loss), "grad_norm": _weighted(grad_norm)}
        algo = update_algo_state(state.algo, metrics)
        updated, change = _descend(optimizer, state, grads, algo)

        # A finite norm bounds the moments too; a NaN would stay in them for ever.
        is_finite = jnp.isfinite(total_loss) & jnp.isfinite(grad_norm) & _all_finite(algo)
        next_state = jax.tree.map(
            lambda new, old: jnp.where(is_finite, new, old), updated, state.with_frozen({})
        )
        metrics |= {
            "update_norm": _weighted(jnp.where(is_finite, optax.tree.norm(change), 0)),
            "learning_rate": _weighted(optimizer.learning_rate(state.step)),
            "param_norm": _weighted(optax.tree.norm(widen(next_state.trainable))),
            SKIPPED_UPDATES: _weighted(1 - is_finite.astype(jnp.float32)),
        }
        return next_state, metrics

    shardings = jax.tree.map(lambda leaf: leaf.sharding, state.with_frozen({}))
    return jax.jit(update, donate_argnums=0, out_shardings=(shardings, None))


def _descend(
    optimizer: Optimizer, state: TrainState, grads: Params, algo: Any
) -> tuple[TrainState, Params]:
    """The state after one step of AdamW, without frozen parameters, and the step itself."""
    # The rate follows the state's step, so that a resumed run has the same.
    learning_rate = optimizer.learning_rate(state.step)
    direction, opt_state = optimizer.direction(grads, state.opt_state, state.trainable)
    change = jax.tree.map(lambda leaf: -learning_rate * leaf, direction)
    trainable = optax.apply_updates(state.trainable, change)

    step, reference = state.step + 1, state.reference
    updated = TrainState(
        step=step,
        trainable=trainable,
        frozen={},
        opt_state=opt_state,
        algo=algo,
        previous=state.trainable if state.previous else {},
        reference=None if reference is None else reference.follow(trainable, step),
    )
    return updated, change


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


def _all_finite(tree: Any) -> jax.Array:
    """Whether no number in ``tree`` is NaN or infinite."""
    return jnp.all(jnp.asarray([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def _weighted(value: jax.Array) -> Weighted:
    """A metric of one value with weight 1."""
    return Weighted(value, jnp.ones((), jnp.float32))
