"""The one jitted function that moves parameters: gradient, add over micro-batches, clip, apply.

In: a stage's ``loss`` and ``after`` and an optimiser. Out: ``(state, batch) -> (state, metrics)``, the state donated.
"""

from __future__ import annotations

import dataclasses
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
After = Callable[[Any, Metrics], Any]
OWN = ("loss", "grad_norm", "update_norm", "param_norm", "learning_rate")


class Update:
    """Calls like a function. ``trace_count`` tells how often it was traced: once per shape of the batch."""

    def __init__(self, loss: Loss, after: After, optimizer: Optimizer, microbatches: int = 1):
        if microbatches < 1:
            raise UserError(f"microbatches={microbatches} is no count; expected 1 or more")
        self.trace_count = 0
        self._loss, self._after, self._optimizer, self._microbatches = (
            loss,
            after,
            optimizer,
            microbatches,
        )
        self._jitted: Any = None

    def __call__(self, state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        """Applies one update.

        Args:
          state: donated, all but ``frozen``; use only the returned one from here on.
          batch: pytree whose array leaves have a leading row axis, ``None`` leaves allowed.

        Returns:
          the next state, placed like the old one, and the stage's metrics plus ``loss``, ``grad_norm`` (before
          clipping), ``update_norm``, ``param_norm`` (after the update) and ``learning_rate``.

        Raises:
          UserError: rows do not divide by the number of micro-batches.
        """
        if self._microbatches > 1:
            check_rows(batch, self._microbatches)
        moving = dataclasses.replace(state, frozen={})
        moved, metrics = self._program(moving)(moving, state.frozen, batch)
        return dataclasses.replace(moved, frozen=state.frozen), metrics

    def trace(self, state: TrainState, batch: Any) -> Any:
        """The program that a call with such arguments runs (``jax.stages.Traced``); shapes with placement will do."""
        moving = dataclasses.replace(state, frozen={})
        return self._program(moving).trace(moving, state.frozen, batch)

    def _program(self, moving: TrainState) -> Any:
        if self._jitted is None:
            placement = jax.tree.map(lambda leaf: leaf.sharding, moving)
            self._jitted = jax.jit(self._run, donate_argnums=0, out_shardings=(placement, None))
        return self._jitted

    def _run(self, moving: TrainState, frozen: Params, batch: Any) -> tuple[TrainState, Metrics]:
        self.trace_count += 1
        state = dataclasses.replace(moving, frozen=frozen)
        loss, metrics, grads = self._gradient(state, batch)
        if taken := sorted(set(metrics) & set(OWN)):
            raise ValueError(f"the stage's metrics {taken} are names that the update itself writes")
        rate = self._optimizer.learning_rate(state.step)
        direction, opt_state = self._optimizer.direction(grads, state.opt_state, state.trainable)
        change = jax.tree.map(lambda leaf: -rate * leaf, direction)
        trainable = optax.apply_updates(state.trainable, change)
        metrics = metrics | {
            "loss": _one(loss),
            "grad_norm": _one(optax.tree.norm(grads)),
            "update_norm": _one(optax.tree.norm(change)),
            "param_norm": _one(optax.tree.norm(widen(trainable))),
            "learning_rate": _one(rate),
        }
        algo, previous = self._after(state.algo, metrics), state.trainable if state.previous else {}
        step, reference = state.step + 1, state.reference
        followed = None if reference is None else reference.after(trainable, step)
        return TrainState(step, trainable, {}, opt_state, algo, previous, followed), metrics

    def _gradient(self, state: TrainState, batch: Any) -> tuple[jax.Array, Metrics, Params]:
        """Loss, metrics and gradient of the whole batch; each is a sum over its micro-batches."""

        def summed(trainable: Params, part: Any) -> tuple[jax.Array, Metrics]:
            return self._loss(merge(trainable, state.frozen), part, state.algo)

        def one(part: Any) -> tuple[jax.Array, Metrics, Params]:
            (loss, metrics), grads = jax.value_and_grad(summed, has_aux=True)(state.trainable, part)
            return widen(loss), metrics, widen(grads)

        if self._microbatches == 1:
            return one(batch)
        parts = split_rows(batch, self._microbatches)
        shapes = jax.eval_shape(one, jax.tree.map(lambda leaf: leaf[0], parts))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        total, _ = jax.lax.scan(
            lambda sum_, part: (jax.tree.map(jnp.add, sum_, one(part)), None), zeros, parts
        )
        return total


def make_update(
    stage_loss: Loss, stage_after: After, optimizer: Optimizer, microbatches: int = 1
) -> Update:
    """The jitted update of a stage; see ``Update.__call__``."""
    return Update(stage_loss, stage_after, optimizer, microbatches)


def check_rows(batch: Any, parts: int) -> None:
    """Raises UserError naming the first leaf of ``batch`` whose rows do not divide into ``parts``."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        if leaf.ndim == 0 or leaf.shape[0] % parts:
            raise UserError(
                f"batch{jax.tree_util.keystr(path)} of shape {tuple(leaf.shape)} does not split into {parts} "
                f"micro-batches; choose microbatches that divide its rows"
            )


def split_rows(batch: Any, parts: int) -> Any:
    """Every leaf ``[N, ...]`` as ``[parts, N / parts, ...]``; part ``i`` takes the rows ``i, i + parts, ...``.

    Taking strided rows keeps each part spread over the devices as the batch was, without moving data.
    """

    def split(leaf: jax.Array) -> jax.Array:
        return jnp.swapaxes(leaf.reshape(leaf.shape[0] // parts, parts, *leaf.shape[1:]), 0, 1)

    return jax.tree.map(split, batch)


def _one(value: Any) -> Weighted:
    return Weighted(value, jnp.ones((), jnp.float32))
