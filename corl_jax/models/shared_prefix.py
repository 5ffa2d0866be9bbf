"""Attention of several completions to a prompt that they share.

The mask of one prompt ``p`` of three tokens with two completions ``a`` and ``b`` of two tokens
(1: the row attends to the column, 0: it does not)::

                        prompt    completion a  completion b
                        p  p  p   a  a          b  b
    prompt           p  1  0  0
                     p  1  1  0
                     p  1  1  1
    completion a     a  1  1  1   1  0
                     a  1  1  1   1  1
    completion b     b  1  1  1                 1  0
                     b  1  1  1                 1  1

The blanks are never computed. The prompt's keys and values are stored once, and read once for all
its completions, whose queries meet them in a single matrix product. With the prompt concatenated to
each completion they would be stored and read ``G`` times. The results are equal up to rounding.

The functions here compute the rows of completions: all of them at once for log-probs, or one row of
each at a time while decoding, where a ``KVCache`` with a ``shared`` part holds the keys and values.
The rows of the prompt are ordinary attention.

Queries, keys and values go in, mixed values ``[N, L, H, C]`` come out. The ``G`` completions of a
prompt are neighbouring rows, ``N = B * G``.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from corl_jax.core.per_device import take_rows
from corl_jax.models.int8 import query_key_products, weighted_values
from corl_jax.models.kv_cache import KVArray, PrefixSlots
from corl_jax.models.products import round_to

BLOCK = 144
"""Queries of a row that attend together: a quarter of the 576 tokens of an image."""


@dataclasses.dataclass(frozen=True)
class _Samples:
    """How rows belong to prompts.

    Attributes:
      prompts, samples: ``B`` prompts, of which each had ``G`` samples.
      slots: which of the samples the rows are, where some have left; None where all are there.
    """

    prompts: int
    samples: int
    slots: PrefixSlots | None

    @property
    def leading(self) -> tuple[int, int]:
        """The axes ``B, G`` of arrays with a row per sample; ``N, 1`` where samples have left."""
        if self.slots is None:
            return self.prompts, self.samples
        return self.slots.slot_of_row.size, 1

    def to_prompts(self, x: Float[Array, "B G K ..."]) -> Float[Array, "B K G ..."]:
        """Rows to the samples of each prompt, with heads before the samples."""
        if self.slots is not None:
            by_slot = take_rows(x.reshape(-1, *x.shape[2:]), self.slots.row_of_slot)
            x = by_slot.reshape(self.prompts, self.samples, *x.shape[2:])
        return x.swapaxes(1, 2)

    def to_rows(self, x: Float[Array, "B K G ..."]) -> Float[Array, "B G K ..."]:
        """The inverse of ``to_prompts``."""
        x = x.swapaxes(1, 2)
        if self.slots is not None:
            by_slot = x.reshape(-1, *x.shape[2:])
            x = take_rows(by_slot, self.slots.slot_of_row).reshape(*self.leading, *x.shape[2:])
        return x


def attend_shared_prefix(
    q_NLHC: Float[Array, "N L H C"],
    prefix_kv: tuple[KVArray, KVArray],
    row_kv: tuple[KVArray, KVArray],
    mask_NLS: Bool[Array, "#N L PS"],
    slots: PrefixSlots | None = None,
) -> Float[Array, "N L H C"]:
    """``attention_kernels.attend`` to a prefix that ``N / B`` rows share, and to each row itself.

    The softmax over both parts is combined from the sums over each part, with one maximum for both
    (Milakov and Gimelshein, 2018, "Online normalizer calculation for softmax", section 3.1).

    Args:
      q_NLHC: queries.
      prefix_kv: keys and values of the shared prefix ``[B, K, P, C]``, in the dtype of the queries
        or int8.
      row_kv: keys and values of the row itself ``[N, K, S, C]``.
      mask_NLS: true where a query attends; ``P`` columns of the prefix, then ``S`` of the row.
      slots: which samples of the prompts the rows are, where some have left while text is decoded.
        Every sample then has its place in the products with the prefix, as if it were there; only
        queries and results move, and the prefix is still read once per prompt.
    """
    rows, length, heads, size = q_NLHC.shape
    (prefix_k_BKPC, prefix_v_BKPC), (k_NKSC, v_NKSC) = prefix_kv, row_kv
    prompts, kv_heads, prefix_length, _ = prefix_k_BKPC.shape
    heads_per_kv = heads // kv_heads
    samples = (rows if slots is None else slots.row_of_slot.size) // prompts
    grouping = _Samples(prompts, samples, slots)
    groups, to_prompts, to_rows = grouping.leading, grouping.to_prompts, grouping.to_rows
    # Hidden logits get the lowest number instead of -inf, with which an empty row would give NaN.
    low = jnp.finfo(jnp.float32).min

    # Query heads are grouped by the key/value head they share; Q counts the heads of a group.
    q_BGLKQC = q_NLHC.reshape(*groups, length, kv_heads, heads_per_kv, size) * jnp.asarray(
        size**-0.5, q_NLHC.dtype
    )
    q_BGKQLC = jnp.moveaxis(q_BGLKQC, 2, 4)
    mask_BG11LS = jnp.broadcast_to(mask_NLS, (rows, *mask_NLS.shape[1:])).reshape(
        *groups, 1, 1, length, -1
    )

    # One matrix product per leading row of the keys, with all queries that read this row as M.
    def attention_logits(q: jax.Array, k: KVArray, leading: tuple[int, ...]) -> jax.Array:
        logits = query_key_products(q.reshape(k.shape[0], kv_heads, -1, size), k)
        return logits.reshape(*leading, heads_per_kv, length, -1)

    def mix_values(weights: jax.Array, v: KVArray, leading: tuple[int, ...]) -> jax.Array:
        weights = weights.reshape(v.shape[0], kv_heads, -1, v.shape[2])
        mixed = weighted_values(weights, v, q_NLHC.dtype)
        return mixed.reshape(*leading, heads_per_kv, length, size)

    # The prefix has a row per prompt, so the samples come after the heads and join M.
    by_prompt, by_row = (prompts, kv_heads, samples), (*groups, kv_heads)
    prefix_logits_BKGQLP = jnp.where(
        to_prompts(mask_BG11LS[..., :prefix_length]),
        attention_logits(to_prompts(q_BGKQLC), prefix_k_BKPC, by_prompt),
        low,
    )
    row_logits_BGKQLS = jnp.where(
        mask_BG11LS[..., prefix_length:], attention_logits(q_BGKQLC, k_NKSC, by_row), low
    )

    # Softmax over both parts: a maximum and a sum for each query.
    max_BGKQL = jnp.maximum(
        to_rows(jnp.max(prefix_logits_BKGQLP, -1)), jnp.max(row_logits_BGKQLS, -1)
    )
    prefix_weights = jnp.exp(prefix_logits_BKGQLP - to_prompts(max_BGKQL)[..., None])
    row_weights = jnp.exp(row_logits_BGKQLS - max_BGKQL[..., None])
    total_BGKQL = to_rows(jnp.sum(prefix_weights, -1)) + jnp.sum(row_weights, -1)

    # The weights are normalized last, when the prefix and the row have been added, and the result
    # is rounded once.
    mixed_BGKQLC = to_rows(mix_values(prefix_weights, prefix_v_BKPC, by_prompt)) + mix_values(
        row_weights, v_NKSC, by_row
    )
    mixed_BGKQLC = round_to(mixed_BGKQLC / total_BGKQL[..., None], q_NLHC.dtype)
    return jnp.moveaxis(mixed_BGKQLC, 4, 2).reshape(rows, length, heads, size)


def attend_shared_prefix_causally(
    q_NLHC: Float[Array, "N L H C"],
    prefix_kv: tuple[Float[Array, "B K P C"], Float[Array, "B K P C"]],
    row_kv: tuple[Float[Array, "N K L C"], Float[Array, "N K L C"]],
    mask_NLS: Bool[Array, "#N L PL"],
) -> Float[Array, "N L H C"]:
    """``attend_shared_prefix`` for complete rows, whose mask hides all positions after the query's.

    It goes block by block over the queries. Each block reads the row's keys only up to its own end,
    so most of what the mask would hide is not computed.
    """
    prefix_length, length = prefix_kv[0].shape[2], q_NLHC.shape[1]
    k_NKLC, v_NKLC = row_kv

    mixed = []
    for start in range(0, length, BLOCK):
        block, end = slice(start, start + BLOCK), min(start + BLOCK, length)
        visible_kv = k_NKLC[:, :, :end], v_NKLC[:, :, :end]
        q, mask = q_NLHC[:, block], mask_NLS[:, block, : prefix_length + end]
        mixed.append(attend_shared_prefix(q, prefix_kv, visible_kv, mask))
    return mixed[0] if len(mixed) == 1 else jnp.concatenate(mixed, 1)
