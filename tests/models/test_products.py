"""Products in float32 with gradients in the compute dtype, and roundings that stay."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corl_jax.models.products import round_to, wide_einsum, wide_matmul_over_rows


def test_a_rounding_stays_where_the_compiler_would_drop_a_cast():
    x = jnp.float32(1 + 2**-12)
    assert jax.jit(lambda x: round_to(x, jnp.bfloat16).astype(jnp.float32) * 1)(x) == 1
    assert round_to(x, jnp.bfloat16).dtype == jnp.bfloat16
    assert round_to(x, jnp.float32) is x
    # The gradient is rounded as well.
    gradient = jax.grad(lambda x: round_to(x, jnp.bfloat16).astype(jnp.float32) * (1 + 2**-12))(x)
    assert gradient == 1 and gradient.dtype == jnp.float32


def test_a_product_keeps_what_bfloat16_would_round_away():
    ones, small = jnp.ones((1, 2), jnp.bfloat16), jnp.array([[1.0], [2**-12]], jnp.bfloat16)
    assert wide_einsum("RA,AE->RE", ones, small).tolist() == [[1 + 2**-12]]
    assert wide_matmul_over_rows(ones[None], small).tolist() == [[[1 + 2**-12]]]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradients_are_products_of_the_operands_dtype(dtype):
    a = jnp.asarray(np.arange(6.0).reshape(2, 3), dtype)
    b = jnp.asarray(np.arange(12.0).reshape(3, 4), dtype)

    def total(a, b):
        return (wide_matmul_over_rows(a, b) ** 2).sum()

    # By hand: the gradient of the product is 2 a b, 40 42 ... at most.
    product = np.asarray(a, np.float64) @ np.asarray(b, np.float64)
    to_a, to_b = jax.grad(total, (0, 1))(a, b)
    assert to_a.dtype == to_b.dtype == dtype
    np.testing.assert_allclose(
        np.asarray(to_a, np.float64), 2 * product @ np.asarray(b, np.float64).T, rtol=1e-2
    )
    np.testing.assert_allclose(
        np.asarray(to_b, np.float64), np.asarray(a, np.float64).T @ (2 * product), rtol=1e-2
    )

    # No product of the backward pass has an operand of another dtype, and none is in vain.
    trace = jax.make_jaxpr(jax.grad(total, (0, 1)))(a, b)
    assert str(trace).count(" dot_general[") == 3
    gradients = [equation for equation in trace.eqns if equation.primitive.name == "dot_general"]
    assert {v.aval.dtype for equation in gradients for v in equation.invars} == {jnp.dtype(dtype)}
