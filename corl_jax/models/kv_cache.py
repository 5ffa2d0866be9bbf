"""The KV cache: keys and values of all layers, written as tokens are read or sampled.

The samples of a prompt share its keys and values. A cache may therefore have a ``shared`` cache
before it, with one row per prompt instead of one row per sample.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from corl_jax.core.per_device import take_rows
from corl_jax.core.types import pytree
from corl_jax.models.int8 import Int8

KVArray = jax.Array | Int8
"""Keys or values as they are stored; in int8 with one scale for every position of a head."""

Stored = KVArray | tuple[KVArray, ...]
"""Keys or values of all layers, stacked in one array or in an array for each layer."""

Index = int | jax.Array
"""A layer's number or a position: an integer, or a traced one inside a loop."""


@pytree()
class PrefixSlots:
    """Where the rows of a cache are among all samples of the prompts, when some have left.

    A slot is a sample that the cache once had; the ``S / B`` slots of a prompt are neighbours.
    Numbers are counted within each of ``D`` shards of the rows.

    Attributes:
      slot_of_row: int ``[D, M]``.
      row_of_slot: int ``[D, S]``; any row where that of the slot has left.
    """

    slot_of_row: Int[Array, "D M"]
    row_of_slot: Int[Array, "D S"]

    @classmethod
    def of(cls, slot_of_row: Int[Array, "D M"], slots: int) -> PrefixSlots:
        """The slots of rows, ``slots`` of them in a shard."""
        rows = jnp.arange(slot_of_row.shape[1])
        invert = jax.vmap(lambda slot_of_row: jnp.zeros(slots, int).at[slot_of_row].set(rows))
        return cls(slot_of_row, invert(slot_of_row))


@pytree()
class KVCache:
    """Keys and values with heads before positions, the layout in which attention reads them.

    It has one of two forms. Layers that run as a scan carry one stacked array through it, which is
    updated in place. Layers that run one by one have an array each: a loop over tokens then updates
    and reads each without a copy, where a CPU would copy every slice of a stack. What has not been
    written yet is zero, and the attention mask hides it.

    Attributes:
      k, v: ``[Y, N, K, L, C]`` for layers that run as a scan, or a tuple of ``Y`` arrays
        ``[N, K, L, C]`` for layers that run one by one. Arrays, or ``Int8`` scaled along ``C``.
      shared: the positions before these that ``N / B`` neighbouring rows share, as a cache of ``B``
        rows, or None.
      slots: which of the samples that share them the rows are, where some have left; else None.
    """

    k: Stored
    v: Stored
    shared: KVCache | None = None
    slots: PrefixSlots | None = None

    @classmethod
    def empty(
        cls,
        layers: int,
        rows: int,
        length: int,
        kv_heads: int,
        head_size: int,
        dtype: DTypeLike,
        stacked: bool = True,
    ) -> KVCache:
        """A cache of zeros; with ``dtype`` int8 each position of a head has its own scale."""

        def zeros(*shape: int) -> KVArray:
            values = jnp.zeros(shape, dtype)
            if dtype == jnp.int8:
                return Int8(values, jnp.zeros((*shape[:-1], 1), jnp.float32))
            return values

        # Keys and values start as the same zeros; arrays are never changed, only replaced.
        layer_shape = (rows, kv_heads, length, head_size)
        if stacked:
            stack = zeros(layers, *layer_shape)
            return cls(stack, stack)
        separate = tuple(zeros(*layer_shape) for _ in range(layers))
        return cls(separate, separate)

    @property
    def length(self) -> int:
        """``L``, the number of positions it has room for, without those of ``shared``."""
        return jax.tree.leaves(self.k)[0].shape[-2]

    @property
    def rows(self) -> int:
        """``N``, the number of rows, without those of ``shared``."""
        return jax.tree.leaves(self.k)[0].shape[-4]

    def fork(self, samples: int) -> KVCache:
        """An empty cache with ``samples`` rows for each row of this one, which they share.

        It has room for no position yet, see ``grow``.
        """

        def repeat_rows(leaf: jax.Array) -> jax.Array:
            # Rows are axis 1 of a stack and axis 0 of one layer. No position is copied.
            rows_axis = leaf.ndim - 4
            return jnp.repeat(leaf[..., :0, :], samples, rows_axis)

        forked = jax.tree.map(repeat_rows, self)
        return KVCache(forked.k, forked.v, self)

    def grow(self, length: int) -> KVCache:
        """This cache with room for ``length`` positions; the new ones are zeros."""

        def pad(leaf: jax.Array) -> jax.Array:
            # Positions are the axis before the last, of scales too.
            return jnp.pad(leaf, [(0, 0)] * (leaf.ndim - 2) + [(0, length - self.length), (0, 0)])

        k, v = jax.tree.map(pad, (self.k, self.v))
        return KVCache(k, v, self.shared, self.slots)

    def first(self, length: int) -> KVCache:
        """A cache of the first ``length`` positions alone, without those of ``shared``."""
        k, v = jax.tree.map(lambda leaf: leaf[..., :length, :], (self.k, self.v))
        return KVCache(k, v, self.shared, self.slots)

    def with_first(self, part: KVCache) -> KVCache:
        """This cache with its first positions replaced by those of ``part``."""

        def replace(leaf: jax.Array, first: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_slice(leaf, first, (0,) * leaf.ndim)

        k, v = jax.tree.map(replace, (self.k, self.v), (part.k, part.v))
        return KVCache(k, v, self.shared, self.slots)

    def take_rows(
        self, rows_DM: Int[Array, "D M"], samples_DM: Int[Array, "D M"], samples: int
    ) -> KVCache:
        """This cache with the rows that are chosen in each of ``D`` shards.

        Args:
          rows_DM: numbers of rows of this cache, see ``per_device.take_rows``.
          samples_DM: what numbers they had in the cache that had all samples.
          samples: ``G``, samples per prompt that it had.
        """
        shards, rows = rows_DM.shape

        def take_leaf(leaf: jax.Array, chosen: jax.Array) -> jax.Array:
            # A stack goes layer by layer, so that the device never holds it twice.
            if leaf.ndim == 5:
                return jax.lax.map(lambda layer: take_rows(layer, chosen), leaf)
            return take_rows(leaf, chosen)

        def take(tree: KVCache, chosen: jax.Array) -> KVCache:
            return jax.tree.map(lambda leaf: take_leaf(leaf, chosen), tree)

        own = take(KVCache(self.k, self.v), rows_DM)
        shared = self.shared
        if shared is None:
            return own

        # A prompt is read once for all its samples, until there are no more rows than prompts.
        # Then each row has a prefix of its own, which is no more to read.
        if self.slots is None and shared.rows == self.rows:
            return KVCache(own.k, own.v, take(shared, rows_DM))
        prompts = shared.rows // shards
        if rows <= prompts:
            return KVCache(own.k, own.v, take(shared, samples_DM // samples))
        return KVCache(own.k, own.v, shared, PrefixSlots.of(samples_DM, prompts * samples))

    def layer(self, layer: Index, length: int) -> tuple[KVArray, KVArray]:
        """Keys and values of one layer at its first ``length`` positions, as they are stored."""
        return _read(self.k, layer, length), _read(self.v, layer, length)

    def write(
        self,
        k_NKLC: Float[Array, "N K L C"],
        v_NKLC: Float[Array, "N K L C"],
        layer: Index,
        index: Index,
    ) -> KVCache:
        """This cache with keys and values of ``layer`` written from position ``index`` on.

        Args:
          k_NKLC: keys of ``L`` positions.
          v_NKLC: their values.
          layer: number of the layer; an integer if each layer has its own arrays.
          index: first position, not counting those of ``shared``.
        """
        k = _write(self.k, k_NKLC, layer, index)
        v = _write(self.v, v_NKLC, layer, index)
        return KVCache(k, v, self.shared, self.slots)


def _read(stored: Stored, layer: Index, length: int) -> KVArray:
    """The first ``length`` positions of one layer."""
    # An Int8 has two leaves, values and scales, both of which are sliced.
    if isinstance(stored, tuple):
        return jax.tree.map(lambda leaf: leaf[:, :, :length], stored[layer])

    def slice_stack(leaf: jax.Array) -> jax.Array:
        # One slice along all axes at once, which a TPU reads without a copy.
        sizes = (1, *leaf.shape[1:3], length, leaf.shape[4])
        return jax.lax.dynamic_slice(leaf, (layer, 0, 0, 0, 0), sizes)[0]

    return jax.tree.map(slice_stack, stored)


def _write(stored: Stored, new_NKLC: jax.Array, layer: Index, index: Index) -> Stored:
    """``stored`` with ``new`` at the positions of one layer that begin at ``index``."""
    # In a tuple the other layers stay the arrays they are. In a stack XLA updates the slice in
    # place, since the loop over layers carries the stack.
    if isinstance(stored, tuple):
        updated = _update(stored[layer], new_NKLC, (0, 0, index, 0))
        return (*stored[:layer], updated, *stored[layer + 1 :])
    return _update(stored, new_NKLC[None], (layer, 0, 0, index, 0))


def _update(array: KVArray, new: jax.Array, start: tuple[Index, ...]) -> KVArray:
    """``array`` with ``new`` written at the indices ``start``, quantized if ``array`` is."""
    converted = Int8.quantize(new, -1) if isinstance(array, Int8) else new.astype(array.dtype)
    return jax.tree.map(
        lambda target, part: jax.lax.dynamic_update_slice(target, part, start), array, converted
    )
