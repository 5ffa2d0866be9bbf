"""Attention by name: one function per kernel, all with the same arguments, and where each can run.

Queries, keys, values and an explicit mask go in, mixed values come out. ``einsum`` is the plain
kernel, which every other must equal. Steps of one token over a KV cache use it whatever the config
names: they wait for memory, not for arithmetic.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as splash_ops
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from corl_jax.core.errors import UserError
from corl_jax.core.registry import Registry
from corl_jax.core.sharding import active_sharder
from corl_jax.models.int8 import Int8, query_key_products, weighted_values
from corl_jax.models.products import round_to

Queries: TypeAlias = Float[Array, "N L H C"]
KeysOrValues: TypeAlias = Float[Array, "N K S C"]
Mask: TypeAlias = Bool[Array, "#N L S"]
"""True where a query attends to a key; one row stands for all."""

AttentionFn = Callable[[Queries, KeysOrValues, KeysOrValues, Mask | None], Queries]


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One way to compute attention.

    Attributes:
      attend: queries, keys, values and mask (or None) to mixed values.
      platform: the only one it runs on, or None for all.
      unmet_requirement: what it requires of a head size and a dtype that it does not support, in
        words; an empty text where it supports them.
    """

    attend: AttentionFn
    platform: str | None = None
    unmet_requirement: Callable[[int, DTypeLike], str] = lambda head_size, dtype: ""


kernels: Registry[Kernel] = Registry("attention kernel")

PLAIN = "einsum"
"""Name of the kernel that runs everywhere."""


def check_kernel(name: str, platform: str, head_sizes: tuple[int, ...], dtype: DTypeLike) -> None:
    """Refuses a kernel that cannot run, before anything is compiled.

    Args:
      name: in ``kernels``.
      platform: ``cpu``, ``gpu`` or ``tpu``, for which the programs are compiled.
      head_sizes: of all attention in the model.
      dtype: of activations.

    Raises:
      UserError: an unknown name, another platform, or an unsupported head size or dtype.
    """
    # The lookup refuses an unknown name.
    kernel = kernels[name]
    if kernel.platform not in (None, platform):
        raise UserError(
            f"attention kernel {name!r} needs a {kernel.platform.upper()}, the programs are for "
            f"{platform}; choose config.model.attention={' or '.join(available_kernels(platform))}"
        )
    # The decoder and the vision tower have different head sizes; the kernel must support both.
    for head_size in head_sizes:
        if requirement := kernel.unmet_requirement(head_size, dtype):
            raise UserError(
                f"attention kernel {name!r} requires {requirement}; "
                "choose config.model.attention=einsum"
            )


def available_kernels(platform: str) -> tuple[str, ...]:
    """Names of the kernels that run on ``platform``, the plain one first."""
    return tuple(name for name in kernels if kernels[name].platform in (None, platform))


def attend(
    q_NLHC: Queries,
    k_NKSC: KeysOrValues | Int8,
    v_NKSC: KeysOrValues | Int8,
    mask_NLS: Mask | None,
) -> Queries:
    """Softmax attention in float32 with scale ``C**-0.5``.

    Query heads share key/value heads in groups of equal size. Keys and values have the dtype of the
    queries or are int8.

    A query with an empty mask row attends to everything evenly instead of giving NaN; its output is
    never used.
    """
    rows, length, heads, size = q_NLHC.shape
    kv_heads, kv_length = k_NKSC.shape[1:3]

    # Heads first, with all queries of a key/value head as one axis M: plain products of matrices.
    q_NLKQC = q_NLHC.reshape(rows, length, kv_heads, heads // kv_heads, size) * jnp.asarray(
        size**-0.5, q_NLHC.dtype
    )
    q_NKMC = jnp.moveaxis(q_NLKQC, 1, 3).reshape(rows, kv_heads, -1, size)

    # Logits and softmax are float32 whatever the inputs are; M is split so that the mask fits.
    logits_NKMS = query_key_products(q_NKMC, k_NKSC)
    logits_NKQLS = logits_NKMS.reshape(rows, kv_heads, -1, length, kv_length)
    if mask_NLS is not None:
        # The lowest number instead of -inf, with which an empty row would give NaN.
        low = jnp.finfo(jnp.float32).min
        logits_NKQLS = jnp.where(mask_NLS[:, None, None], logits_NKQLS, low)
    # The weights are rounded before they are normalized, as behind a shared prefix: so both round
    # the same numbers.
    largest_NKQL1 = jnp.max(logits_NKQLS, -1, keepdims=True)
    weights_NKQLS = jnp.exp(logits_NKQLS - largest_NKQL1)
    total_NKM1 = jnp.sum(weights_NKQLS, -1).reshape(rows, kv_heads, -1, 1)

    weights_NKMS = weights_NKQLS.reshape(rows, kv_heads, -1, kv_length)
    mixed_NKMC = weighted_values(weights_NKMS, v_NKSC, q_NLHC.dtype) / total_NKM1
    mixed_NKMC = round_to(mixed_NKMC, q_NLHC.dtype)
    mixed_NKQLC = mixed_NKMC.reshape(rows, kv_heads, -1, length, size)
    return jnp.moveaxis(mixed_NKQLC, 3, 1).reshape(rows, length, heads, size)


kernels.register(PLAIN)(Kernel(attend))


def cudnn(
    q_NLHC: Queries, k_NKSC: KeysOrValues, v_NKSC: KeysOrValues, mask_NLS: Mask | None
) -> Queries:
    """cuDNN's flash attention on a GPU.

    cuDNN takes a mask as a bias, and the gradient of attention with a bias needs even lengths.
    """
    length = q_NLHC.shape[1]
    padded = _pad_lengths(q_NLHC, k_NKSC, v_NKSC, mask_NLS, 2)

    # jax.nn has positions before heads.
    def attend_local(q_NLHC, k_NKSC, v_NKSC, mask_NLS):
        k_NSKC, v_NSKC = k_NKSC.swapaxes(1, 2), v_NKSC.swapaxes(1, 2)
        return jax.nn.dot_product_attention(
            q_NLHC, k_NSKC, v_NSKC, mask=mask_NLS[:, None], implementation="cudnn"
        )

    return _attend_per_device(attend_local, *padded)[:, :length]


def _cudnn_unmet_requirement(head_size: int, dtype: DTypeLike) -> str:
    if head_size % 8 or head_size > 128:
        return f"heads of a multiple of 8 up to 128, not {head_size}"
    if dtype != jnp.bfloat16:
        return f"model.compute_dtype=bfloat16, not {jnp.dtype(dtype).name}"
    return ""


kernels.register("cudnn")(Kernel(cudnn, "gpu", _cudnn_unmet_requirement))


def splash(
    q_NLHC: Queries, k_NKSC: KeysOrValues, v_NKSC: KeysOrValues, mask_NLS: Mask | None
) -> Queries:
    """JAX's Pallas splash attention on a TPU, forward and backward.

    It skips empty blocks of the mask. The mask is an array of the program, since left padding
    differs from row to row. Where masks differ, rows run one after another; a core runs its blocks
    in order anyhow. Lengths are padded to whole lanes.
    """
    length = q_NLHC.shape[1]
    padded = _pad_lengths(q_NLHC, k_NKSC, v_NKSC, mask_NLS, LANES)

    def attend_local(q_NLHC, k_NKSC, v_NKSC, mask_NLS):
        # Forward and both backward programs use the same blocks.
        block_q, block_kv = _block_size(q_NLHC.shape[1]), _block_size(k_NKSC.shape[2])
        sizes = splash_ops.BlockSizes(
            block_q=block_q, block_kv=block_kv, block_kv_compute=block_kv,
            block_q_dkv=block_q, block_kv_dkv=block_kv, block_kv_dkv_compute=block_kv,
            block_q_dq=block_q, block_kv_dq=block_kv,
        )  # fmt: skip

        def attend_row(q_HLC, k_KSC, v_KSC, mask_LS):
            kernel = splash_ops.make_splash_mha(
                mask_LS[None], block_sizes=sizes, head_shards=1, q_seq_shards=1
            )
            # The kernel names its scope by this flag. Its constructor makes the flag an array,
            # which cannot be read while a program is traced.
            kernel.fwd_mask_info = kernel.fwd_mask_info._replace(is_dynamic_mask=True)
            return kernel(q_HLC, k_KSC, v_KSC)

        q_NHLC = q_NLHC.swapaxes(1, 2) * q_NLHC.shape[-1] ** -0.5
        if len(mask_NLS) > 1:
            return jax.vmap(attend_row)(q_NHLC, k_NKSC, v_NKSC, mask_NLS).swapaxes(1, 2)

        # With one mask for all rows, their heads are simply more heads of a single row.
        q_HLC, k_KSC, v_KSC = (x.reshape(-1, *x.shape[2:]) for x in (q_NHLC, k_NKSC, v_NKSC))
        mixed_HLC = attend_row(q_HLC, k_KSC, v_KSC, mask_NLS[0])
        return mixed_HLC.reshape(q_NHLC.shape).swapaxes(1, 2)

    return _attend_per_device(attend_local, *padded)[:, :length]


LANES, MAX_BLOCK = 128, 512
"""Positions that a TPU's vector registers hold side by side, and the longest block of a step."""


def _block_size(length: int) -> int:
    """The longest block that divides ``length``, a multiple of ``LANES``."""
    # ``LANES`` itself divides, since lengths have been padded to a multiple of it.
    return max(block for block in range(LANES, MAX_BLOCK + 1, LANES) if length % block == 0)


def _splash_unmet_requirement(head_size: int, dtype: DTypeLike) -> str:
    if head_size <= LANES or head_size % LANES == 0:
        return ""
    return f"heads of up to {LANES} or a multiple of it, not {head_size}"


kernels.register("splash")(Kernel(splash, "tpu", _splash_unmet_requirement))


def _pad_lengths(
    q_NLHC: Queries,
    k_NKSC: KeysOrValues,
    v_NKSC: KeysOrValues,
    mask_NLS: Mask | None,
    multiple: int,
) -> tuple[Queries, KeysOrValues, KeysOrValues, Mask]:
    """Arguments of an ``AttentionFn`` padded to lengths that ``multiple`` divides, with a mask."""
    if mask_NLS is None:
        mask_NLS = jnp.ones((1, q_NLHC.shape[1], k_NKSC.shape[2]), bool)
    extra_q, extra_kv = (-length % multiple for length in mask_NLS.shape[1:])
    mask_NLS = jnp.pad(mask_NLS, ((0, 0), (0, extra_q), (0, extra_kv)))

    # Every query attends to at least the first key, so that no kernel divides by 0. The outputs of
    # queries that attended to nothing are never used.
    mask_NLS = mask_NLS.at[..., 0].set(mask_NLS[..., 0] | ~mask_NLS.any(-1))
    k_NKSC, v_NKSC = (
        jnp.pad(x_NKSC, ((0, 0), (0, 0), (0, extra_kv), (0, 0))) for x_NKSC in (k_NKSC, v_NKSC)
    )
    q_NLHC = jnp.pad(q_NLHC, ((0, 0), (0, extra_q), (0, 0), (0, 0)))
    return q_NLHC, k_NKSC, v_NKSC, mask_NLS


def _attend_per_device(
    attend_local: AttentionFn,
    q_NLHC: Queries,
    k_NKSC: KeysOrValues,
    v_NKSC: KeysOrValues,
    mask_NLS: Mask,
) -> Queries:
    """``attend_local`` on each device's rows and heads: the compiler cannot partition a kernel.

    Raises:
      UserError: heads that do not divide over the tensor axis.
    """
    sharder = active_sharder()
    if sharder is None:
        return attend_local(q_NLHC, k_NKSC, v_NKSC, mask_NLS)

    # Rows that do not divide over the batch axes are replicated, and so is a mask for all rows.
    row_axis = "batch" if len(q_NLHC) % sharder.batch_shards == 0 else None
    mask_axis = row_axis if len(mask_NLS) > 1 else None
    arrays = (q_NLHC, k_NKSC, v_NKSC, mask_NLS)
    names = (
        (row_axis, None, "heads"),
        (row_axis, "kv_heads"),
        (row_axis, "kv_heads"),
        (mask_axis,),
    )
    specs = []
    for x, axes in zip(arrays, names, strict=True):
        padded_axes = (*axes, *[None] * (x.ndim - len(axes)))
        specs.append(sharder.checked_sharding(x.shape, padded_axes, "attention").spec)

    # Rows and heads are independent of each other, so devices need no communication.
    return jax.shard_map(
        attend_local,
        mesh=sharder.mesh,
        in_specs=tuple(specs),
        out_specs=specs[0],
        check_vma=False,
    )(*arrays)
