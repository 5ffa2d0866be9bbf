"""Attention by name: one function per kernel, all with the same arguments, and what each of them can run on.

In: queries, keys, values, an explicit mask. Out: mixed values. ``einsum`` is the plain one, and what every other must
equal. One-token steps over a cache stay with it whatever the config names: they wait for memory, not for arithmetic.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as splash_ops
from jaxtyping import Array, Bool, Float

from corl_jax.core.errors import UserError
from corl_jax.core.registry import Registry
from corl_jax.core.sharding import active_sharder

Attend = Callable[[Any, Any, Any, Any], jax.Array]


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One way to compute attention.

    Attributes:
      attend: ``(q [N, L, H, C], k [N, K, S, C], v [N, K, S, C], mask bool [1 or N, L, S] or None) -> [N, L, H, C]``.
      platform: the only one it runs on, or None for all.
      unfit: what it cannot take of a head size and a dtype, in words, or an empty text.
    """

    attend: Attend
    platform: str | None = None
    unfit: Callable[[int, Any], str] = lambda head_size, dtype: ""


kernels: Registry[Kernel] = Registry("attention kernel")


def check(name: str, platform: str, head_sizes: tuple[int, ...], dtype: Any) -> None:
    """Refuses a kernel that cannot run; called at the door, with what the programs are compiled for.

    Args:
      name: in ``kernels``.
      platform: ``cpu``, ``gpu`` or ``tpu``.
      head_sizes: of all attention in the model.
      dtype: of activations.

    Raises:
      UserError: unknown name, another platform, or a size or dtype that it does not take.
    """
    kernel = kernels[name]
    if kernel.platform not in (None, platform):
        raise UserError(
            f"attention kernel {name!r} needs a {kernel.platform.upper()}, the programs are for {platform}; "
            f"choose model.attention={' or '.join(available(platform))}"
        )
    for size in head_sizes:
        if why := kernel.unfit(size, dtype):
            raise UserError(f"attention kernel {name!r} takes {why}; choose model.attention=einsum")


def available(platform: str) -> tuple[str, ...]:
    """Names of the kernels that ``platform`` has, plain one first."""
    return tuple(name for name in kernels if kernels[name].platform in (None, platform))


def attend(
    q_NLHC: Float[Array, "N L H C"],
    k_NKSC: Float[Array, "N K S C"],
    v_NKSC: Float[Array, "N K S C"],
    mask_NLS: Bool[Array, "#N L S"] | None,
) -> Float[Array, "N L H C"]:
    """Softmax attention in float32, scale ``C**-0.5``; query heads share key/value heads in equal groups.

    A query whose mask row is empty attends to everything evenly instead of giving NaN; nobody reads such rows.
    """
    n, length, heads, size = q_NLHC.shape
    kv_heads = k_NKSC.shape[1]
    q = q_NLHC.reshape(n, length, kv_heads, heads // kv_heads, size) * jnp.asarray(
        size**-0.5, k_NKSC.dtype
    )
    q_NKMC = jnp.moveaxis(q, 1, 3).reshape(
        n, kv_heads, -1, size
    )  # heads first: plain products of matrices
    scores = jnp.einsum("NKMC,NKSC->NKMS", q_NKMC, k_NKSC, preferred_element_type=jnp.float32)
    scores = scores.reshape(n, kv_heads, -1, length, k_NKSC.shape[2])
    if mask_NLS is not None:
        scores = jnp.where(mask_NLS[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = (
        jax.nn.softmax(scores, axis=-1)
        .astype(v_NKSC.dtype)
        .reshape(n, kv_heads, -1, k_NKSC.shape[2])
    )
    mixed = jnp.einsum("NKMS,NKSC->NKMC", weights, v_NKSC).reshape(n, kv_heads, -1, length, size)
    return jnp.moveaxis(mixed, 3, 1).reshape(n, length, heads, size)


kernels.register("einsum")(Kernel(attend))


def cudnn(q_NLHC: Any, k_NKSC: Any, v_NKSC: Any, mask_NLS: Any) -> jax.Array:
    """cuDNN's flash attention on a GPU; a mask travels as a bias, with which its gradient wants even lengths."""
    length = q_NLHC.shape[1]
    q, k, v, mask = _padded(q_NLHC, k_NKSC, v_NKSC, mask_NLS, 2)

    def local(q, k, v, mask):
        k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
        return jax.nn.dot_product_attention(q, k, v, mask=mask[:, None], implementation="cudnn")

    return _on_each_device(local, q, k, v, mask)[:, :length]


def _unfit_for_cudnn(head_size: int, dtype: Any) -> str:
    if head_size % 8 or head_size > 128:
        return f"heads of a multiple of 8 up to 128, not {head_size}"
    return (
        ""
        if dtype == jnp.bfloat16
        else f"model.compute_dtype=bfloat16, not {jnp.dtype(dtype).name}"
    )


kernels.register("cudnn")(Kernel(cudnn, "gpu", _unfit_for_cudnn))


def splash(q_NLHC: Any, k_NKSC: Any, v_NKSC: Any, mask_NLS: Any) -> jax.Array:
    """JAX's Pallas splash attention on a TPU, forward and backward; it skips blocks of the mask that are empty.

    The mask is an array of the program (left padding differs from row to row), so rows run one after another where
    they differ; a core runs its blocks in order anyhow. Lengths are padded to whole lanes.
    """
    length = q_NLHC.shape[1]
    q, k, v, mask = _padded(q_NLHC, k_NKSC, v_NKSC, mask_NLS, LANES)

    def local(q, k, v, mask):
        block_q, block_kv = _block(q.shape[1]), _block(k.shape[2])
        sizes = splash_ops.BlockSizes(
            block_q=block_q, block_kv=block_kv, block_kv_compute=block_kv,
            block_q_dkv=block_q, block_kv_dkv=block_kv, block_kv_dkv_compute=block_kv,
            block_q_dq=block_q, block_kv_dq=block_kv,
        )  # fmt: skip

        def mix(q_HLC, k_KSC, v_KSC, mask_LS):
            kernel = splash_ops.make_splash_mha(
                mask_LS[None], block_sizes=sizes, head_shards=1, q_seq_shards=1
            )
            # It names its scope by this flag, which its own constructor has made an array that a trace cannot read.
            kernel.fwd_mask_info = kernel.fwd_mask_info._replace(is_dynamic_mask=True)
            return kernel(q_HLC, k_KSC, v_KSC)

        q_NHLC = q.swapaxes(1, 2) * q.shape[-1] ** -0.5
        if len(mask) > 1:
            return jax.vmap(mix)(q_NHLC, k, v, mask).swapaxes(1, 2)
        q_HLC, k_KSC, v_KSC = (
            x.reshape(-1, *x.shape[2:]) for x in (q_NHLC, k, v)
        )  # rows are so many more heads
        return mix(q_HLC, k_KSC, v_KSC, mask[0]).reshape(q_NHLC.shape).swapaxes(1, 2)

    return _on_each_device(local, q, k, v, mask)[:, :length]


LANES, LONGEST_BLOCK = 128, 512
"""Positions that a TPU's vector registers hold side by side, and the longest block of them worked on at once."""


def _block(length: int) -> int:
    """The longest block that divides ``length``, a multiple of ``LANES``."""
    return max(block for block in range(LANES, LONGEST_BLOCK + 1, LANES) if length % block == 0)


def _unfit_for_splash(head_size: int, dtype: Any) -> str:
    fits = head_size <= LANES or head_size % LANES == 0
    return "" if fits else f"heads of up to {LANES} or a multiple of it, not {head_size}"


kernels.register("splash")(Kernel(splash, "tpu", _unfit_for_splash))


def _padded(q: Any, k: Any, v: Any, mask: Any, multiple: int) -> tuple[Any, Any, Any, Any]:
    """Arguments of an ``Attend`` with lengths that ``multiple`` divides. Every query sees at least the first key, so
    that no kernel divides by 0; queries that saw none are those that nobody reads."""
    if mask is None:
        mask = jnp.ones((1, q.shape[1], k.shape[2]), bool)
    more_q, more_kv = (-length % multiple for length in mask.shape[1:])
    mask = jnp.pad(mask, ((0, 0), (0, more_q), (0, more_kv)))
    mask = mask.at[..., 0].set(mask[..., 0] | ~mask.any(-1))
    k, v = (jnp.pad(x, ((0, 0), (0, 0), (0, more_kv), (0, 0))) for x in (k, v))
    return jnp.pad(q, ((0, 0), (0, more_q), (0, 0), (0, 0))), k, v, mask


def _on_each_device(local: Attend, q: Any, k: Any, v: Any, mask: Any) -> jax.Array:
    """``local`` over each device's own rows and heads: a kernel is a black box that the compiler cannot divide.

    Raises:
      UserError: heads that do not divide over the tensor axis.
    """
    sharder = active_sharder()
    if sharder is None:
        return local(q, k, v, mask)
    rows = "batch" if len(q) % sharder.batch_shards == 0 else None
    mask_rows = rows if len(mask) > 1 else None
    names = ((rows, None, "heads"), (rows, "kv_heads"), (rows, "kv_heads"), (mask_rows,))
    specs = tuple(
        sharder.checked_sharding(x.shape, (*axes, *[None] * (x.ndim - len(axes))), "attention").spec
        for x, axes in zip((q, k, v, mask), names, strict=True)
    )
    return jax.shard_map(
        local, mesh=sharder.mesh, in_specs=specs, out_specs=specs[0], check_vma=False
    )(q, k, v, mask)
