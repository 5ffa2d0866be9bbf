"""Work on rows that each device does by itself, where the compiler would send more between devices than that needs.

In: arrays inside a program that is traced under ``core.sharding.sharding_context``. Out: the same numbers as without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from corl_jax.core.sharding import Sharder, active_sharder, axes_of, constrain


def shard_embedding_lookup(x: jax.Array, name: str) -> jax.Array:
    """Rows that a batch asked for, of a table whose columns are spread over some of the batch axes; else ``x``.

    Each device looks its columns up, and adds up their gradient, for the rows of all devices with which it shares the
    table. Left to the compiler, every device adds up a gradient of the whole table, over all of them.

    Args:
      x: batch first, columns last.
      name: logical axis of the columns.
    """
    sharder = active_sharder()
    if sharder is None:
        return x
    columns = axes_of(sharder.rules[name])
    rest = _repeated(sharder, columns)
    if not columns or not rest:
        return x
    between = PartitionSpec(rest, *[None] * (x.ndim - 2), columns)
    return constrain(
        jax.lax.with_sharding_constraint(x, NamedSharding(sharder.mesh, between)), "batch"
    )


def batch_axes_spec(names: Sequence[str | None]) -> PartitionSpec:
    """How an array with the logical ``names`` lies on the batch axes, if only some of them, for ``per_device``.

    Over all of them the compiler does as well by itself, and what lies on further axes too it would gather along those.
    """
    sharder = active_sharder()
    if sharder is None:
        return PartitionSpec()
    spec, over = sharder.spec(names), axes_of(sharder.rules["batch"])
    axes = [axis for part in spec for axis in axes_of(part)]
    further = any(sharder.mesh.shape[axis] > 1 for axis in axes if axis not in over)
    if further or not _repeated(sharder, axes):
        return PartitionSpec()
    return PartitionSpec(
        *(tuple(axis for axis in axes_of(part) if axis in over) or None for part in spec)
    )


def _repeated(sharder: Sharder, axes: Sequence[str]) -> tuple[str, ...]:
    """The batch axes over which an array that is spread over ``axes`` is the same."""
    return tuple(
        axis
        for axis in axes_of(sharder.rules["batch"])
        if axis not in axes and sharder.mesh.shape[axis] > 1
    )


def per_device(work: Callable[[Any, Any], Any], whole: Any, rows: Any, spread: Any) -> Any:
    """``work(whole, rows)``, by every device on its own rows; a plain call outside ``use`` or if rows do not divide.

    What ``work`` loops over inside costs nothing between devices: they gather ``whole`` once before, and add up its
    gradient once after, each for the share that it holds. Where the compiler chooses, it does both at every turn of a
    loop.

    Args:
      work: to a pytree of arrays with the same rows.
      whole: pytree that does not depend on the rows; over the other mesh axes it stays spread as it was.
      rows: pytree of arrays whose first axis is the batch.
      spread: prefix of ``whole`` that says how it lies on the batch axes, see ``batch_axes_spec``.
    """
    sharder = active_sharder()
    shards = 1 if sharder is None else sharder.batch_shards
    if (
        sharder is None
        or shards == 1
        or any(leaf.shape[0] % shards for leaf in jax.tree.leaves(rows))
    ):
        return work(whole, rows)
    mesh, axes = sharder.mesh, axes_of(sharder.rules["batch"])

    def gathered_first(held: Any, rows: Any) -> Any:
        return work(jax.tree.map(_from_all, spread, held), rows)

    own = PartitionSpec(axes)
    return jax.shard_map(
        gathered_first,
        mesh=mesh,
        in_specs=(spread, own),
        out_specs=own,
        axis_names=set(axes),
        check_vma=False,
    )(whole, rows)


def _from_all(spec: PartitionSpec, held: Any) -> Any:
    """The whole of arrays of which this device holds a share."""

    def one(x: jax.Array) -> jax.Array:
        for axis, over in enumerate(spec):
            if over is not None:
                x = jax.lax.all_gather(x, over, axis=axis, tiled=True)
        return x

    return jax.tree.map(one, held)
