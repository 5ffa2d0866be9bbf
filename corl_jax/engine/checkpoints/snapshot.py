"""The arrays of a train state, kept for a thread that writes them while training goes on.

In: a state whose arrays the next update will donate. Out: the same values in arrays that no update
touches, with equal shapes, dtypes and spread over devices, and a rule for when the update may begin.

On accelerators they are copied to pinned memory of the host while the devices sample. On a CPU
nothing is copied at first: while somebody holds a view of a buffer, JAX does not reuse it for the
output of an update that donates it, but copies it. So memory grows by what an update meets unwritten.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np

from corl_jax.engine.state import TrainState

PINNED_HOST = "pinned_host"
"""JAX's name for memory of the host that devices read and write directly."""

MEMORY_MARGIN = 2**30
"""Bytes of memory that a CPU keeps free beside the copy of a state."""


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """What a save writes.

    Attributes:
      state: arrays that stay as they are; on accelerators they may still be under way.
      donated_bytes: of the arrays that an update donates, on this process.
      is_on_cpu: whether ``state`` shares memory with the state that it was taken of.
    """

    state: TrainState
    donated_bytes: int
    is_on_cpu: bool

    def arrive(self) -> None:
        """Waits until all copies are there.

        Raises:
          JaxRuntimeError: the host has no memory for them.
        """
        jax.block_until_ready(self.state)

    def fits_beside_update(self) -> bool:
        """Whether an update may begin while ``state`` is still held, as far as memory goes."""
        if not self.is_on_cpu:
            return True
        free = free_memory()
        return free is None or free > self.donated_bytes + MEMORY_MARGIN


def take_snapshot(state: TrainState) -> Snapshot:
    """Begins to copy ``state``; frozen parameters, which no update donates, are taken as they are.

    Raises:
      JaxRuntimeError: there is no memory for the copies.
    """
    donated = state.with_frozen({})
    leaves = jax.tree.leaves(donated)
    is_on_cpu = all(device.platform == "cpu" for leaf in leaves for device in leaf.devices())
    keep = _share if is_on_cpu else _copy_to_host
    return Snapshot(
        state=jax.tree.map(keep, donated).with_frozen(state.frozen),
        donated_bytes=sum(
            shard.data.nbytes for leaf in leaves for shard in leaf.addressable_shards
        ),
        is_on_cpu=is_on_cpu,
    )


def _copy_to_host(leaf: jax.Array) -> jax.Array:
    """``leaf`` in pinned memory. Dispatched: a later donation of ``leaf`` waits for the copy."""
    return jax.device_put(leaf, leaf.sharding.with_memory_kind(PINNED_HOST))


def _share(leaf: jax.Array) -> jax.Array:
    """``leaf`` of a CPU as an array over the same memory, through views that hold it."""
    shards = [
        jax.device_put(np.asarray(shard.data), shard.device, may_alias=True)
        for shard in leaf.addressable_shards
    ]
    return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, shards)


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still take, as the system and its control group say, or None.

    Args:
      root: of the file system with ``proc`` and ``sys``.
    """
    try:
        lines = (root / "proc/meminfo").read_text("utf-8").splitlines()
    except OSError:
        return None  # not Linux
    free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]

    # A container may have less than its machine. Its cached files can be dropped.
    group = root / "sys/fs/cgroup"
    if (group / "memory.max").is_file():
        limit = (group / "memory.max").read_text("utf-8").strip()
        if limit.isdigit():
            stat = dict(
                line.split() for line in (group / "memory.stat").read_text("utf-8").splitlines()
            )
            taken = int((group / "memory.current").read_text("utf-8")) - int(stat["inactive_file"])
            free.append(int(limit) - taken)
    return min(free, default=None)
