"""Mesh, logical axis rules and shardings: the only file that maps logical axes to mesh axes.

Parameters are created with logical axis names (``logical=("embed", "mlp")`` in the models), and one
table of rules maps each name to mesh axes. Activations are constrained by
``constrain(x, "batch", None, "embed")``.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from corl_jax.core.errors import UserError
from corl_jax.core.processes.agreement import all_gather

# Logical axis name to the mesh axes over which such an axis is sharded; None for replicated.
Rules = Mapping[str, str | tuple[str, ...] | None]

# Mesh axes: data parallel, fully sharded data parallel, tensor parallel.
AXES = ("data", "fsdp", "tensor")

DEFAULT_RULES: Rules = {
    # Rows of activations.
    "batch": ("data", "fsdp"),
    # Transformers: FSDP shards the width, tensor parallelism what is computed from it.
    "embed": "fsdp",
    "mlp": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_size": None,
    # Embedding tables and output heads, for text tokens and for image tokens.
    "vocab": "tensor",
    "codes": "tensor",
    "code_size": None,
    # Vision towers: width and input.
    "vision": "fsdp",
    "pixels": None,
    # Convolutions of the image tokenizer.
    "channels_in": None,
    "channels_out": None,
    "kernel": None,
    # Axes that are too small to be worth sharding.
    "positions": None,
    "norm": None,
    "layers": None,
}


class Sharder:
    """A mesh together with its table of rules.

    Args:
      mesh: from ``make_mesh``.
      rules: logical axis name to mesh axis, to several of them, or to None (replicated).

    Raises:
      UserError: a rule names an axis that the mesh does not have.
    """

    def __init__(self, mesh: Mesh, rules: Rules = DEFAULT_RULES):
        self.mesh = mesh
        self.rules = rules

        # A misspelt mesh axis should fail here and not at the first array that uses the rule.
        for name, axes in rules.items():
            for axis in axes_of(axes):
                if axis not in mesh.axis_names:
                    raise UserError(
                        f"sharding rule {name!r} names mesh axis {axis!r}; "
                        f"the mesh has {', '.join(mesh.axis_names)}"
                    )

    def spec(self, names: Sequence[str | None]) -> PartitionSpec:
        """Partition spec of an array whose axes have the logical ``names``.

        Raises:
          UserError: a name without a rule, or two names that mean the same mesh axis.
        """
        used_axes: list[str] = []
        entries: list[str | tuple[str, ...] | None] = []
        for name in names:
            if name is not None and name not in self.rules:
                raise UserError(
                    f"logical axis {name!r} has no sharding rule; "
                    f"add it to the rules table ({', '.join(self.rules)})"
                )
            axes = () if name is None else axes_of(self.rules[name])

            # An array cannot be sharded twice over the same mesh axis.
            for axis in axes:
                if axis in used_axes:
                    raise UserError(
                        f"mesh axis {axis!r} is used twice for the logical axes {tuple(names)}; "
                        "change the rule of one of them"
                    )
                used_axes.append(axis)

            # Entries are None, one mesh axis or a tuple of them, as JAX writes them itself.
            if not axes:
                entries.append(None)
            else:
                entries.append(axes if len(axes) > 1 else axes[0])
        return PartitionSpec(*entries)

    def named_sharding(self, *names: str | None) -> NamedSharding:
        """Sharding of an array whose axes have the logical ``names``; no names: replicated."""
        return NamedSharding(self.mesh, self.spec(names))

    def checked_sharding(
        self, shape: Sequence[int], names: Sequence[str | None], label: str
    ) -> NamedSharding:
        """``named_sharding`` of an array, after a check that its sharded axes divide evenly.

        Args:
          shape: may have more axes than ``names``; the leading ones are then replicated.
          names: logical axes.
          label: what the array is, for the error message.

        Raises:
          UserError: an axis does not divide.
        """
        # Stacked layers and similar arrays have leading axes without a name.
        names = (None,) * (len(shape) - len(names)) + tuple(names)
        spec = self.spec(names)
        for size, axes in zip(shape, spec, strict=True):
            parts = math.prod(self.mesh.shape[axis] for axis in axes_of(axes))
            if size % parts:
                raise UserError(
                    f"{label}: an axis of size {size} does not divide over {parts} devices "
                    f"of {axes!r}; choose another mesh"
                )
        return NamedSharding(self.mesh, spec)

    @property
    def batch_shards(self) -> int:
        """Number of shards of the batch axis."""
        return math.prod(self.mesh.shape[axis] for axis in axes_of(self.rules["batch"]))

    def prompt_repeats(self, prompts: int, group_size: int, microbatches: int = 1) -> int:
        """How often to repeat each prompt, so that rows divide over the devices.

        With ``f`` repeats, ``[B, G]`` samples become ``[B * f, G / f]`` in the same order, and each
        device only reads the prompts of its own samples. The answer is 1 where prompts divide
        already, and where no number of repeats helps.

        Args:
          prompts: ``B``.
          group_size: ``G``, samples per prompt.
          microbatches: rows should divide in each micro-batch; where that is impossible, all rows
            together should.
        """
        # The least number of repeats with which ``prompts * repeats`` is a multiple of ``rows``.
        for rows in (self.batch_shards * microbatches, self.batch_shards):
            repeats = rows // math.gcd(prompts, rows)
            if group_size % repeats == 0:
                return repeats
        return 1

    def local_row_ids(self, rows: int) -> Sequence[int]:
        """Which of a step's ``rows`` this process reads, scores and passes to ``put_batch``.

        With one process these are all rows. The ids ascend but need not be contiguous: the hosts of
        a TPU slice hold chips from several rows of the mesh.

        Raises:
          UserError: several processes, and rows that do not divide over the batch axes of the mesh.
        """
        if jax.process_count() == 1:
            return range(rows)
        if rows % self.batch_shards:
            raise UserError(
                f"{rows} rows a step must divide over the {self.batch_shards} devices of the batch "
                "axes when there are several processes; choose a multiple, or another mesh"
            )

        # Shard ``i`` of the batch has the rows ``i * size`` to ``(i + 1) * size - 1``.
        size = rows // self.batch_shards
        return [
            row for shard in self._local_shards for row in range(shard * size, (shard + 1) * size)
        ]

    @property
    def _local_shards(self) -> list[int]:
        """Indices of the batch shards that are on devices of this process, ascending."""
        # The index map of an array with one element per shard gives each device its shard.
        slices_by_device = self.named_sharding("batch").addressable_devices_indices_map(
            (self.batch_shards,)
        )
        return sorted(
            {
                index[0].indices(self.batch_shards)[0]
                for index in slices_by_device.values()
                if index is not None
            }
        )

    def put_batch(self, tree: PyTree) -> PyTree[jax.Array]:
        """Places a batch on the mesh, its first axis sharded where it divides, else replicated.

        Args:
          tree: host arrays with the rows ``local_row_ids`` of this process, or arrays that are on
            the mesh already.
        """
        return jax.tree.map(self._put, tree)

    def _put(self, leaf: jax.Array | np.ndarray) -> jax.Array:
        divides = np.ndim(leaf) > 0 and np.shape(leaf)[0] % self.batch_shards == 0
        is_global = isinstance(leaf, jax.Array) and not leaf.is_fully_addressable

        # One process, or an array that is on the mesh already: JAX moves the data.
        if jax.process_count() == 1 or is_global:
            return jax.device_put(
                leaf, self.named_sharding("batch") if divides else self.named_sharding()
            )

        # A scalar has the same value on every process.
        if not np.ndim(leaf):
            return jax.make_array_from_process_local_data(self.named_sharding(), np.asarray(leaf))

        # Several processes: each cuts its local rows into its shards, by their first global row.
        rows = np.asarray(leaf)
        shards = self._local_shards
        size = len(rows) // len(shards)
        rows_by_start = {
            shard * size: rows[i * size : (i + 1) * size] for i, shard in enumerate(shards)
        }
        shape = (size * self.batch_shards, *rows.shape[1:])

        def shard_rows(index: Any) -> np.ndarray:
            return rows_by_start[index[0].indices(shape[0])[0]]

        return jax.make_array_from_callback(shape, self.named_sharding("batch"), shard_rows)

    def local_rows(self, tree: PyTree) -> PyTree[np.ndarray]:
        """This process's rows of a batch on the mesh as NumPy arrays; inverse of ``put_batch``."""
        return jax.tree.map(self._local_rows, tree)

    def _local_rows(self, leaf: jax.Array | np.ndarray) -> np.ndarray:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return np.asarray(leaf)

        # Replicas of a shard start at the same row, so the dictionary has each shard once.
        sharded = jax.device_put(leaf, self.named_sharding("batch"))
        data_by_start = {
            shard.index[0].indices(sharded.shape[0])[0]: shard.data
            for shard in sharded.addressable_shards
        }
        return np.concatenate([np.asarray(data_by_start[start]) for start in sorted(data_by_start)])

    def all_gather_rows(self, tree: PyTree) -> PyTree[np.ndarray]:
        """The rows of all processes, as NumPy arrays on each of them.

        Args:
          tree: host arrays with the rows ``local_row_ids`` of this process.
        """
        if jax.process_count() == 1:
            return jax.tree.map(np.asarray, tree)
        return to_host(self.put_batch(tree))


def to_host(tree: PyTree) -> PyTree[np.ndarray]:
    """Arrays on the mesh as complete NumPy arrays on every process; all processes must call it."""
    leaves, structure = jax.tree.flatten(tree)

    # Only arrays of which this process lacks a part need communication.
    partial = [
        i
        for i, leaf in enumerate(leaves)
        if isinstance(leaf, jax.Array)
        and not (leaf.is_fully_addressable or leaf.is_fully_replicated)
    ]
    if partial:
        for i, complete in zip(partial, all_gather([leaves[i] for i in partial]), strict=True):
            leaves[i] = complete
    return jax.tree.unflatten(structure, map(np.asarray, leaves))


def make_mesh(shape: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Mesh over ``devices`` (default: all).

    Args:
      shape: sizes by axis. One size may be -1, which takes all remaining devices. ``-n`` takes the
        largest number of devices up to ``n`` that divides the remaining ones.
      devices: in the order of their slice, whose physical axes may be split.

    Raises:
      UserError: an unknown axis, or sizes whose product is not the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = {axis: shape.get(axis, 1) for axis in AXES}
    if unknown := set(shape) - set(AXES):
        raise UserError(
            f"mesh axes {sorted(unknown)} are unknown; expected some of {', '.join(AXES)}"
        )

    # First the axes with an upper limit, in order, then the one axis that takes what remains.
    remaining = len(devices) // math.prod(size for size in sizes.values() if size > 0)
    for axis, size in sizes.items():
        if size < -1:
            sizes[axis] = max(n for n in range(1, -size + 1) if remaining % n == 0)
            remaining //= sizes[axis]
    sizes = {axis: remaining if size == -1 else size for axis, size in sizes.items()}

    # The remainder is rounded down above, so sizes that do not divide show up here.
    if math.prod(sizes.values()) != len(devices):
        needed = math.prod(sizes.values())
        raise UserError(
            f"mesh {sizes} needs {needed} devices, but there are {len(devices)}; "
            "change the sizes, or set one of them to -1"
        )

    # Auto axes: the compiler chooses the shardings in between, guided by our constraints.
    device_grid = mesh_utils.create_device_mesh(
        tuple(sizes.values()), devices, allow_split_physical_axes=True
    )
    return Mesh(device_grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


# Stack of the sharders of the ``sharding_context`` blocks that are open.
_active: list[Sharder] = []


@contextlib.contextmanager
def sharding_context(sharder: Sharder) -> Iterator[Sharder]:
    """Makes ``constrain`` and its kin use ``sharder`` for programs traced inside the block."""
    _active.append(sharder)
    try:
        yield sharder
    finally:
        _active.pop()


def active_sharder() -> Sharder | None:
    """The sharder of the innermost ``sharding_context``, or None outside."""
    return _active[-1] if _active else None


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Constrains an activation to the logical ``names`` of its leading axes.

    It returns ``x`` unchanged outside ``sharding_context``.
    """
    if not _active:
        return x
    # Trailing axes that were not named are left replicated.
    padded = names + (None,) * (x.ndim - len(names))
    return jax.lax.with_sharding_constraint(x, _active[-1].named_sharding(*padded))


def all_gather_fsdp(x: jax.Array, names: Sequence[str | None]) -> jax.Array:
    """All-gathers a parameter over the batch axes: every device needs all of it for its own rows.

    Called once per layer and pass, this is a single all-gather however many products read the
    parameter, and a single reduce-scatter of its gradient. Left to the compiler, every product
    gathers for itself. Outside ``sharding_context`` it returns ``x`` unchanged.

    Args:
      x: the parameter, sharded as its logical axes say.
      names: logical axes of ``x``.
    """
    if not _active:
        return x
    sharder = _active[-1]
    sharded_spec = sharder.spec(names)
    batch_axes = axes_of(sharder.rules["batch"])

    # The same spec without the batch axes.
    gathered_spec = PartitionSpec(
        *(
            tuple(axis for axis in axes_of(entry) if axis not in batch_axes) or None
            for entry in sharded_spec
        )
    )

    # Nothing to gather: one shard, or a parameter that is not sharded over the batch axes.
    if sharder.batch_shards == 1 or gathered_spec == sharded_spec:
        return x
    return _reshard(
        x,
        NamedSharding(sharder.mesh, gathered_spec),
        NamedSharding(sharder.mesh, sharded_spec),
    )


# The opposite constraint on the gradient lets the compiler reduce it straight into its shards.
@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _reshard(x: jax.Array, to: NamedSharding, back: NamedSharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, to)


def _reshard_forward(
    x: jax.Array, to: NamedSharding, back: NamedSharding
) -> tuple[jax.Array, None]:
    return _reshard(x, to, back), None


def _reshard_backward(
    to: NamedSharding, back: NamedSharding, _: None, grad: jax.Array
) -> tuple[jax.Array]:
    return (jax.lax.with_sharding_constraint(grad, back),)


_reshard.defvjp(_reshard_forward, _reshard_backward)


def axes_of(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The mesh axes of one entry in a table of rules or in a partition spec."""
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)
