"""Attention of rows behind what they have in common. In: queries, shared and own keys and values; out: mixed values."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

BLOCK = 144
"""Queries of a sequence that attend together: a quarter of the 576 tokens of a picture."""


def attend_shared_prefix(
    q_NLHC: Float[Array, "N L H C"],
    before: tuple[Float[Array, "B K P C"], Float[Array, "B K P C"]],
    own: tuple[Float[Array, "N K S C"], Float[Array, "N K S C"]],
    mask_NLS: Bool[Array, "#N L PS"],
) -> Float[Array, "N L H C"]:
    """``attend`` to keys and values that ``N / B`` rows share, and to those of each row; the mask covers both in turn.

    The shared ones are read once for all rows that look at them; the softmax over both is put together from the sums of
    each (Milakov and Gimelshein, 2018, section 3.1).
    """
    n, length, heads, size = q_NLHC.shape
    (shared_k, shared_v), (k, v) = before, own
    rows, kv_heads, prefix, _ = shared_k.shape
    group, low = (heads // kv_heads, length), jnp.finfo(jnp.float32).min
    q = q_NLHC.reshape(rows, n // rows, length, kv_heads, heads // kv_heads, size) * jnp.asarray(
        size**-0.5, v.dtype
    )
    q_BJKGLC = jnp.moveaxis(q, 2, 4)
    mask = jnp.broadcast_to(mask_NLS, (n, *mask_NLS.shape[1:])).reshape(
        rows, n // rows, 1, 1, length, -1
    )

    def scores(q, k, shape):
        q = q.reshape(len(k), kv_heads, -1, size)
        return jnp.einsum("NKMC,NKSC->NKMS", q, k, preferred_element_type=jnp.float32).reshape(
            *shape, *group, -1
        )

    def mixture(weights, v, shape):
        weights = weights.astype(v.dtype).reshape(len(v), kv_heads, -1, v.shape[2])
        return jnp.einsum("NKMS,NKSC->NKMC", weights, v).reshape(*shape, *group, size)

    by_prompt, by_row = (rows, kv_heads, n // rows), (rows, n // rows, kv_heads)
    common = jnp.where(
        mask[..., :prefix].swapaxes(1, 2), scores(q_BJKGLC.swapaxes(1, 2), shared_k, by_prompt), low
    )
    single = jnp.where(mask[..., prefix:], scores(q_BJKGLC, k, by_row), low)
    top = jnp.maximum(jnp.max(common, -1).swapaxes(1, 2), jnp.max(single, -1))
    common, single = (
        jnp.exp(common - top.swapaxes(1, 2)[..., None]),
        jnp.exp(single - top[..., None]),
    )
    total = jnp.sum(common, -1).swapaxes(1, 2) + jnp.sum(single, -1)
    mixed = mixture(common, shared_v, by_prompt).swapaxes(1, 2) + mixture(single, v, by_row)
    return jnp.moveaxis(mixed / total[..., None].astype(v.dtype), 4, 2).reshape(
        n, length, heads, size
    )


def attend_shared_prefix_causally(
    q_NLHC: Any, before: Any, own: Any, mask_NLS: Any
) -> Float[Array, "N L H C"]:
    """``attend_shared_prefix`` for whole sequences whose position ``l`` sees no own position after ``l``.

    Block by block, each of which looks no further than its own end: what the mask would hide is mostly not computed.
    """
    prefix, parts = before[0].shape[2], []
    for start in range(0, q_NLHC.shape[1], BLOCK):
        rows, end = slice(start, start + BLOCK), min(start + BLOCK, q_NLHC.shape[1])
        seen = tuple(leaf[:, :, :end] for leaf in own)
        parts.append(
            attend_shared_prefix(q_NLHC[:, rows], before, seen, mask_NLS[:, rows, : prefix + end])
        )
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, 1)
