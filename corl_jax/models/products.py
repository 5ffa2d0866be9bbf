"""Products of matrices in float32, and the places where numbers are rounded to the compute dtype.

Two programs of one model, such as the sampler's loop over tokens and the teacher-forced pass over
whole sequences, add up products in another order. Their sums differ in the last bits of float32, and
a sum that is rounded to bfloat16 comes out the same in both, nearly always. Numbers that are rounded
several times between two products, or in one program only, drift apart; guidance multiplies that, and
log-probs of the sampler and of the loss disagree. docs/precision.md has the measurement.

So a product returns float32, what follows is computed in float32, and one ``round_to`` is before the
next product. Gradients are products in the compute dtype.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float


def round_to(x: jax.Array, dtype: DTypeLike) -> jax.Array:
    """``x`` rounded to ``dtype``, for certain.

    XLA drops a cast to bfloat16 that is followed by one back to float32, in those programs in which
    it fuses the two (``xla_allow_excess_precision``); it never drops this.
    """
    if dtype == x.dtype:
        return x
    kept = jnp.finfo(dtype)
    return jax.lax.reduce_precision(x, kept.nexp, kept.nmant).astype(dtype)


def wide_einsum(spec: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """``jnp.einsum(spec, a, b)`` in float32, of operands of one dtype.

    The gradient is rounded to the dtype of the operands before it is multiplied, so that a backward
    pass in bfloat16 has no product of float32 numbers.
    """
    if a.dtype == jnp.float32:
        return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32)
    return _wide_einsum(spec, a, b)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _wide_einsum(spec: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32)


def _wide_einsum_forward(spec: str, a: jax.Array, b: jax.Array) -> tuple[jax.Array, Any]:
    return _wide_einsum(spec, a, b), (a, b)


def _wide_einsum_backward(spec: str, operands: Any, gradient: jax.Array) -> tuple[Any, ...]:
    # Linear in each operand, so that nothing of the product itself is computed again.
    (a, b), gradient = operands, gradient.astype(operands[0].dtype)
    (to_a,) = jax.linear_transpose(lambda a: jnp.einsum(spec, a, b), a)(gradient)
    (to_b,) = jax.linear_transpose(lambda b: jnp.einsum(spec, a, b), b)(gradient)
    return to_a, to_b


_wide_einsum.defvjp(_wide_einsum_forward, _wide_einsum_backward)


def matmul_over_rows(
    x: Float[Array, "... A"],
    kernel_AE: Float[Array, "A E"],
    dimension_numbers: Any = None,
    **kwargs: Any,
) -> Float[Array, "... E"]:
    """``x @ kernel`` with all leading axes of ``x`` merged; a ``dot_general`` for ``nnx.Linear``.

    Without the merge a CPU needs nearly twice as long for the gradient.
    """
    rows_RA = x.reshape(-1, x.shape[-1])
    product_RE = jax.lax.dot_general(rows_RA, kernel_AE, (((1,), (0,)), ((), ())), **kwargs)
    return product_RE.reshape(*x.shape[:-1], -1)


def wide_matmul_over_rows(
    x: Float[Array, "... A"],
    kernel_AE: Float[Array, "A E"],
    dimension_numbers: Any = None,
    **kwargs: Any,
) -> Float[Array, "... E"]:
    """``matmul_over_rows`` in float32, see ``wide_einsum``."""
    if x.dtype == jnp.float32:
        return matmul_over_rows(x, kernel_AE, **kwargs)
    # ``kwargs`` are a precision, which float32 alone needs, and the sharding None.
    rows_RA = x.reshape(-1, x.shape[-1])
    return _wide_einsum("RA,AE->RE", rows_RA, kernel_AE).reshape(*x.shape[:-1], -1)
