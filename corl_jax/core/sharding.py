"""Mesh, logical axis rules and placement: the only file that knows both meaning and mesh.

Parameters are born with logical axis names (``logical=("embed", "mlp")`` in the models); one table maps
names to mesh axes. Activations are constrained by ``constrain(x, "batch", None, "embed")``.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from corl_jax.core.errors import UserError

Rules = Mapping[str, str | tuple[str, ...] | None]

AXES = ("data", "fsdp", "tensor")

DEFAULT_RULES: Rules = {
    "batch": ("data", "fsdp"),
    "embed": "fsdp",
    "mlp": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_size": None,
    "vocab": "tensor",
    "codes": "tensor",
    "code_size": None,
    "vision": "fsdp",
    "pixels": None,
    "channels_in": None,
    "channels_out": None,
    "kernel": None,
    "positions": None,
    "norm": None,
    "layers": None,
}


class Sharder:
    """A mesh together with its rules table."""

    def __init__(self, mesh: Mesh, rules: Rules = DEFAULT_RULES):
        self.mesh, self.rules = mesh, rules
        for name, axes in rules.items():
            for axis in axes_of(axes):
                if axis not in mesh.axis_names:
                    raise UserError(
                        f"sharding rule {name!r} names mesh axis {axis!r}; the mesh has {', '.join(mesh.axis_names)}"
                    )

    def spec(self, names: Sequence[str | None]) -> PartitionSpec:
        """Partition spec of an array whose axes carry the logical ``names``."""
        used: list[str] = []
        spec = []
        for name in names:
            if name is not None and name not in self.rules:
                raise UserError(
                    f"logical axis {name!r} has no sharding rule; add it to the rules table ({', '.join(self.rules)})"
                )
            axes = () if name is None else axes_of(self.rules[name])
            for axis in axes:
                if axis in used:
                    raise UserError(
                        f"mesh axis {axis!r} is used twice for the logical axes {tuple(names)}"
                    )
                used.append(axis)
            spec.append(None if not axes else axes if len(axes) > 1 else axes[0])
        return PartitionSpec(*spec)

    def named_sharding(self, *names: str | None) -> NamedSharding:
        """Sharding for an array whose axes carry the logical ``names``; no names means replicated."""
        return NamedSharding(self.mesh, self.spec(names))

    def checked_sharding(
        self, shape: Sequence[int], names: Sequence[str | None], what: str
    ) -> NamedSharding:
        """Like ``named``, after checking that every sharded axis of ``shape`` divides evenly."""
        names = (None,) * (len(shape) - len(names)) + tuple(names)
        spec = self.spec(names)
        for size, axes in zip(shape, spec, strict=True):
            parts = math.prod(self.mesh.shape[axis] for axis in axes_of(axes))
            if size % parts:
                raise UserError(
                    f"{what}: an axis of size {size} does not divide over {parts} devices of {axes!r}"
                )
        return NamedSharding(self.mesh, spec)

    @property
    def batch_shards(self) -> int:
        """Over how many devices the batch axis is spread."""
        return math.prod(self.mesh.shape[axis] for axis in axes_of(self.rules["batch"]))

    def prompt_repeats(self, groups: int, samples: int, parts: int = 1) -> int:
        """How often to repeat each of ``groups`` prompts, its samples dealt out, so that rows divide over the devices.

        ``[B, G]`` samples are then ``[B * f, G / f]``, side by side as before, and each device reads the prompts of its
        own samples. 1 where prompts divide already, or where no number of copies helps.

        Args:
          parts: micro-batches, in each of which rows should divide; where that cannot be, all rows together.
        """
        for rows in (self.batch_shards * parts, self.batch_shards):
            count = rows // math.gcd(groups, rows)
            if samples % count == 0:
                return count
        return 1

    def local_row_ids(self, rows: int) -> Sequence[int]:
        """Which of ``rows`` rows of a step this process reads, scores and hands to ``put_batch``: all on one process.

        They rise, but need not be neighbours: the hosts of a TPU slice hold chips from several rows of the mesh.

        Raises:
          UserError: several processes, and rows that do not divide over the batch axes of the mesh.
        """
        if jax.process_count() == 1:
            return range(rows)
        if rows % self.batch_shards:
            raise UserError(
                f"{rows} rows a step do not divide over the {self.batch_shards} devices of the batch axes, which "
                "several processes need; choose a multiple, or another mesh"
            )
        each = rows // self.batch_shards
        return [row for shard in self._shards for row in range(shard * each, (shard + 1) * each)]

    @property
    def _shards(self) -> list[int]:
        """Numbers of this process's parts of the batch."""
        held = (
            self.named_sharding("batch")
            .addressable_devices_indices_map((self.batch_shards,))
            .values()
        )
        return sorted(
            {index[0].indices(self.batch_shards)[0] for index in held if index is not None}
        )

    def put_batch(self, tree: Any) -> Any:
        """Places a batch on the mesh, first axis over the batch axes where it divides, else replicated.

        Args:
          tree: host arrays that hold this process's ``share`` of the rows, or arrays that lie on the mesh already.
        """
        return jax.tree.map(self._put, tree)

    def _put(self, leaf: Any) -> jax.Array:
        spread = np.ndim(leaf) > 0 and np.shape(leaf)[0] % self.batch_shards == 0
        if jax.process_count() == 1 or (
            isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
        ):
            return jax.device_put(
                leaf, self.named_sharding("batch") if spread else self.named_sharding()
            )
        if not np.ndim(leaf):
            return jax.make_array_from_process_local_data(self.named_sharding(), np.asarray(leaf))
        rows, shards = np.asarray(leaf), self._shards
        each = len(rows) // len(shards)
        parts = {shard * each: rows[i * each : (i + 1) * each] for i, shard in enumerate(shards)}
        shape = (each * self.batch_shards, *rows.shape[1:])

        def part(index: Any) -> np.ndarray:
            return parts[index[0].indices(shape[0])[0]]

        return jax.make_array_from_callback(shape, self.named_sharding("batch"), part)

    def local_rows(self, tree: Any) -> Any:
        """This process's rows of a batch on the mesh, as NumPy arrays; the inverse of ``put_batch``."""
        return jax.tree.map(self._own, tree)

    def _own(self, leaf: Any) -> np.ndarray:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return np.asarray(leaf)
        placed = jax.device_put(leaf, self.named_sharding("batch"))
        parts = {
            shard.index[0].indices(placed.shape[0])[0]: shard.data
            for shard in placed.addressable_shards
        }
        return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])

    def all_gather_rows(self, tree: Any) -> Any:
        """The rows of all processes, as NumPy arrays on each of them, from host arrays that hold its ``share``."""
        return (
            to_host(self.put_batch(tree))
            if jax.process_count() > 1
            else jax.tree.map(np.asarray, tree)
        )


def to_host(tree: Any) -> Any:
    """Arrays on the mesh as NumPy arrays, whole on every process; all processes must call it."""

    def whole(leaf: Any) -> np.ndarray:
        if isinstance(leaf, jax.Array) and not (
            leaf.is_fully_addressable or leaf.is_fully_replicated
        ):
            return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
        return np.asarray(leaf)

    return jax.tree.map(whole, tree)


def make_mesh(shape: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Mesh over ``devices`` (default: all).

    Args:
      shape: sizes by axis. One may be -1 and takes what is left; ``-n`` takes up to ``n``, as many as divide.
      devices: in the order of their slice, whose axes may be split.

    Raises:
      UserError: unknown axis, or sizes whose product is not the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = {axis: shape.get(axis, 1) for axis in AXES}
    if set(shape) - set(AXES):
        raise UserError(
            f"mesh axes {sorted(set(shape) - set(AXES))} are unknown; expected some of {', '.join(AXES)}"
        )
    left = len(devices) // math.prod(size for size in sizes.values() if size > 0)
    for axis, size in sizes.items():
        if size < -1:
            sizes[axis] = max(count for count in range(1, -size + 1) if left % count == 0)
            left //= sizes[axis]
    sizes = {axis: left if size == -1 else size for axis, size in sizes.items()}
    if math.prod(sizes.values()) != len(devices):
        raise UserError(
            f"mesh {sizes} needs {math.prod(sizes.values())} devices, but there are {len(devices)}"
        )
    placed = mesh_utils.create_device_mesh(
        tuple(sizes.values()), devices, allow_split_physical_axes=True
    )
    return Mesh(placed, AXES, axis_types=(AxisType.Auto,) * len(AXES))


_active: list[Sharder] = []


@contextlib.contextmanager
def sharding_context(sharder: Sharder) -> Iterator[Sharder]:
    """Makes ``constrain`` speak for ``sharder`` while programs are traced inside the block."""
    _active.append(sharder)
    try:
        yield sharder
    finally:
        _active.pop()


def active_sharder() -> Sharder | None:
    """Whom ``constrain`` speaks for now, or None outside ``sharding_context``."""
    return _active[-1] if _active else None


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Constrains an activation to the logical ``names`` of its leading axes; identity outside ``sharding_context``."""
    if not _active:
        return x
    padded = names + (None,) * (x.ndim - len(names))
    return jax.lax.with_sharding_constraint(x, _active[-1].named_sharding(*padded))


def all_gather_fsdp(x: jax.Array, names: Sequence[str | None]) -> jax.Array:
    """A parameter whole over the batch axes, as every device needs it for its own rows; identity outside ``sharding_context``.

    Said once per layer and pass it is one gathering, however many products read it, and its gradient comes back as one
    sum that is spread again. Left to the compiler, every product gathers for itself.

    Args:
      names: logical axes of ``x``.
    """
    if not _active:
        return x
    sharder = _active[-1]
    spread = sharder.spec(names)
    over = axes_of(sharder.rules["batch"])
    whole = PartitionSpec(
        *(tuple(axis for axis in axes_of(axes) if axis not in over) or None for axes in spread)
    )
    if sharder.batch_shards == 1 or whole == spread:
        return x
    return _reshard(x, NamedSharding(sharder.mesh, whole), NamedSharding(sharder.mesh, spread))


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


def axes_of(axes: Any) -> tuple[str, ...]:
    """The mesh axes in one entry of a rules table or of a partition spec."""
    return () if axes is None else (axes,) if isinstance(axes, str) else tuple(axes)
