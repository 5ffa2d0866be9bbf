"""Computations of each device on its own rows, where the compiler would communicate too much.

In: arrays inside a program that is traced under ``core.sharding.sharding_context``. Out: the same
numbers as without it; only the collectives between devices differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PyTree

from corl_jax.core.sharding import Sharder, active_sharder, axes_of, constrain

P = TypeVar("P")
R = TypeVar("R")
T = TypeVar("T")


def shard_embedding_lookup(x: jax.Array, name: str) -> jax.Array:
    """Reshards the rows of an embedding lookup, so that devices exchange shards of its gradient.

    It applies to a table whose columns are sharded over some of the batch axes; otherwise ``x`` is
    returned unchanged. Each device looks up its own columns for the rows of all devices that share
    the table with it, and sums their gradient for these columns alone. Without this, the compiler
    lets every device sum a gradient of the entire table, over all devices.

    Args:
      x: looked-up rows, batch first, columns last.
      name: logical axis of the columns.
    """
    sharder = active_sharder()
    if sharder is None:
        return x
    column_axes = axes_of(sharder.rules[name])
    row_axes = _batch_axes_without(sharder, column_axes)
    if not column_axes or not row_axes:
        return x

    # First constraint: the lookup is sharded over columns, as its table is, and over the remaining
    # batch axes by rows. Second constraint: the usual sharding of activations, by rows alone.
    lookup_spec = PartitionSpec(row_axes, *[None] * (x.ndim - 2), column_axes)
    return constrain(
        jax.lax.with_sharding_constraint(x, NamedSharding(sharder.mesh, lookup_spec)), "batch"
    )


def batch_axes_spec(names: Sequence[str | None]) -> PartitionSpec:
    """The part of an array's partition spec that concerns the batch axes, for ``per_device``.

    It is empty where the array is sharded over all of the batch axes, since the compiler does as
    well by itself, and where it is also sharded over an axis that is not for the batch, along which
    the compiler would gather it too.

    Args:
      names: logical axes of the array.
    """
    sharder = active_sharder()
    if sharder is None:
        return PartitionSpec()

    # An empty spec where the compiler does as well, or where it would gather along more axes.
    spec = sharder.spec(names)
    batch_axes = axes_of(sharder.rules["batch"])
    used_axes = [axis for entry in spec for axis in axes_of(entry)]
    beyond_batch = any(sharder.mesh.shape[axis] > 1 for axis in used_axes if axis not in batch_axes)
    if beyond_batch or not _batch_axes_without(sharder, used_axes):
        return PartitionSpec()

    # The spec of the array, without any other axis than those of the batch.
    return PartitionSpec(
        *(tuple(axis for axis in axes_of(entry) if axis in batch_axes) or None for entry in spec)
    )


def _batch_axes_without(sharder: Sharder, axes: Sequence[str]) -> tuple[str, ...]:
    """The batch axes over which an array that is sharded over ``axes`` is replicated."""
    return tuple(
        axis
        for axis in axes_of(sharder.rules["batch"])
        if axis not in axes and sharder.mesh.shape[axis] > 1
    )


def per_device(
    fn: Callable[[P, R], T], params: P, rows: R, params_spec: PyTree[PartitionSpec]
) -> T:
    """``fn(params, rows)``, computed by every device on its own rows with ``jax.shard_map``.

    A loop inside ``fn`` needs no communication: the devices all-gather ``params`` once before it
    and reduce-scatter the gradient of ``params`` once after it. Left to the compiler, both happen
    in every iteration of the loop.

    Outside ``sharding_context``, with one batch shard, or if the rows do not divide over the
    shards, this is a plain call of ``fn``.

    Args:
      fn: returns a pytree of arrays with the same rows.
      params: pytree that does not depend on the rows. It stays sharded over the other mesh axes.
      rows: pytree of arrays whose first axis is the batch.
      params_spec: prefix of ``params`` with its partition specs over the batch axes, see
        ``batch_axes_spec``.
    """
    sharder = active_sharder()
    if sharder is None or sharder.batch_shards == 1:
        return fn(params, rows)
    if any(leaf.shape[0] % sharder.batch_shards for leaf in jax.tree.leaves(rows)):
        return fn(params, rows)

    # Only the batch axes are manual; the compiler still shards over the tensor axis.
    batch_axes = axes_of(sharder.rules["batch"])
    rows_spec = PartitionSpec(batch_axes)

    # The all-gather is before any loop in ``fn``, and the reduce-scatter of gradients after it.
    def gather_then_call(param_shards: P, row_shards: R) -> T:
        return fn(jax.tree.map(_all_gather, params_spec, param_shards), row_shards)

    return jax.shard_map(
        gather_then_call,
        mesh=sharder.mesh,
        in_specs=(params_spec, rows_spec),
        out_specs=rows_spec,
        axis_names=set(batch_axes),
        check_vma=False,
    )(params, rows)


def _all_gather(spec: PartitionSpec, shards: PyTree[jax.Array]) -> PyTree[jax.Array]:
    """Complete arrays from the shards on this device, all of them sharded as ``spec`` says."""

    def gather_leaf(x: jax.Array) -> jax.Array:
        # ``tiled`` concatenates the shards along ``axis`` instead of stacking them on a new one.
        for axis, mesh_axes in enumerate(spec):
            if mesh_axes is not None:
                x = jax.lax.all_gather(x, mesh_axes, axis=axis, tiled=True)
        return x

    return jax.tree.map(gather_leaf, shards)


def batch_shards_of(rows: int) -> int:
    """Shards that ``rows`` rows are spread over: 1 outside ``sharding_context``, or if unequal."""
    sharder = active_sharder()
    return 1 if sharder is None or rows % sharder.batch_shards else sharder.batch_shards


def take_rows(x: jax.Array, rows_DM: Int[Array, "D M"], axis: int = 0) -> jax.Array:
    """Rows of ``x`` that are chosen in each of ``D`` shards alone, so that none changes its device.

    Args:
      x: an array whose ``axis`` has ``D * N`` rows; shard ``d`` has those from ``d * N`` on.
      rows_DM: numbers below ``N``, counted within the shard.
      axis: of the rows.

    Returns:
      the array with ``D * M`` rows.
    """
    shards, before = len(rows_DM), (slice(None),) * axis

    def take(part: jax.Array, rows: jax.Array) -> jax.Array:
        return part.at[(*before, rows)].get(mode="promise_in_bounds")

    if shards == 1:
        return take(x, rows_DM[0])
    parts = x.reshape(*x.shape[:axis], shards, -1, *x.shape[axis + 1 :])
    taken = jax.vmap(take, (axis, 0), axis)(parts, rows_DM)
    return taken.reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])
