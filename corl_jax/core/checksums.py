"""Checksums of arrays that do not depend on their spread over devices and processes.

In: arrays by name, each whole or in shards. Out: a short text per array that changes when any bit
does, and whether all its numbers are finite. Sums make this possible: every process adds up what it
holds, and the sums of all processes add up to those of the whole array.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import UInt64

# A sum of words, the same weighted by position, and the count of numbers that are not finite.
Sums = UInt64[np.ndarray, "3"]


@dataclasses.dataclass(frozen=True)
class Checksum:
    """What was measured of one array.

    Attributes:
      digest: dtype, shape and two sums of 64 bits, such as ``float32[6,1] 0123...``.
      is_finite: no number is NaN or infinite.
    """

    digest: str
    is_finite: bool


def checksums(
    arrays: Mapping[str, jax.Array], all_texts: Callable[[str], list[str]] | None = None
) -> dict[str, Checksum]:
    """The checksum of each array; all processes must call this, and get the same.

    Args:
      arrays: by name, equal on every process.
      all_texts: brings the text of every process to each of them, in a thread beside the main one;
        None in the main thread, where the devices can do it.

    The bits of element ``i``, in row-major order, are read as an unsigned word ``w_i``. The sums
    are ``w_i`` and ``i w_i`` modulo 2**64, which notice any change of one element and any exchange
    of two. Other damage has a chance of about 2**-64 to pass.
    """
    sums = np.zeros((len(arrays), 3), np.uint64)
    for row, array in zip(sums, arrays.values(), strict=True):
        row[:] = _local_sums(array)

    # As bytes, since JAX has no integers of 64 bits. Sums wrap around.
    if jax.process_count() > 1:
        if all_texts is None:
            gathered = np.asarray(multihost_utils.process_allgather(sums.view(np.uint8)))
        else:
            content = b"".join(bytes.fromhex(text) for text in all_texts(sums.tobytes().hex()))
            gathered = np.frombuffer(content, np.uint8).reshape(-1, *sums.view(np.uint8).shape)
        sums = np.ascontiguousarray(gathered).view(np.uint64).sum(0, dtype=np.uint64)
    return {
        name: Checksum(f"{dtype_and_shape(array)} {row[0]:016x}{row[1]:016x}", is_finite=not row[2])
        for (name, array), row in zip(arrays.items(), sums, strict=True)
    }


def dtype_and_shape(array: jax.Array | jax.ShapeDtypeStruct) -> str:
    """Such as ``float32[6,1]``, which the digest of an array begins with."""
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"


def _local_sums(array: jax.Array) -> Sums:
    """The sums over those elements of which this process holds the first copy."""
    # What every process has as an array of its own counts once.
    total = np.zeros(3, np.uint64)
    if array.is_fully_addressable and jax.process_index() > 0:
        return total

    strides = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
    for shard in array.addressable_shards:
        if shard.replica_id == 0:
            offsets = [index.start or 0 for index in shard.index]
            total += _shard_sums(np.asarray(shard.data), offsets, strides)
    return total


def _shard_sums(shard: np.ndarray, offsets: Sequence[int], strides: Sequence[int]) -> Sums:
    """The sums of a shard whose first element is at ``offsets`` of an array with ``strides``.

    Position ``i`` is a sum over axes, so marginal sums of the words are all that is needed.
    """
    sums = np.ascontiguousarray(shard).view(f"u{shard.dtype.itemsize}").reshape(shard.shape)
    # An array of one element, since NumPy warns where a scalar wraps around.
    weighted = np.zeros(1, np.uint64)
    for axis in reversed(range(shard.ndim)):
        count = shard.shape[axis]
        marginal = sums.reshape(math.prod(shard.shape[:axis]), count).sum(0, dtype=np.uint64)
        positions = np.arange(offsets[axis], offsets[axis] + count, dtype=np.uint64)
        weighted += np.sum(marginal * positions * np.uint64(strides[axis]))
        sums = sums.sum(-1, dtype=np.uint64)

    infinite = 0
    if jnp.issubdtype(shard.dtype, jnp.inexact):
        with np.errstate(invalid="ignore"):  # bfloat16 warns of the NaN that is looked for
            infinite = shard.size - int(np.count_nonzero(np.isfinite(shard)))
    return np.asarray([sums, weighted[0], infinite], np.uint64)
