"""FLOPs of a program on all devices together, counted in its trace.

Matrix products and convolutions count, at two FLOPs per multiply-add, as often as their loop runs
at most. What a backward pass computes again counts again. Attention kernels count with the products
inside, as if their masks hid nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from jax.extend import core

CUDNN_ATTENTION_PRODUCTS = {
    "dot_product_attention_fwd_wrapper": 2,
    "dot_product_attention_bwd_wrapper": 5,
}
"""Products of queries and keys, or of their like, in JAX's primitives of cuDNN attention: logits and
mixed values; the logits again, and the gradients of weights, queries, keys and values."""


def call_flops(function: Callable[..., Any], *args: Any) -> float:
    """FLOPs of ``function(*args)``."""
    return jaxpr_flops(jax.make_jaxpr(function)(*args).jaxpr)


def jaxpr_flops(jaxpr: core.Jaxpr) -> float:
    """FLOPs of one run of a jaxpr."""
    return sum(_equation_flops(equation) for equation in jaxpr.eqns)


def _equation_flops(equation: core.JaxprEqn) -> float:
    """FLOPs of one equation, including the jaxprs that it runs."""
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _dot_flops(equation)
    if name == "conv_general_dilated":
        return _convolution_flops(equation)
    if name in CUDNN_ATTENTION_PRODUCTS:
        return CUDNN_ATTENTION_PRODUCTS[name] * _attention_product_flops(equation)

    # Every other equation costs what the jaxprs inside cost, as often as they run.
    inner_flops = [jaxpr_flops(inner) for inner in _inner_jaxprs(params)]
    if name == "scan":
        return params["length"] * sum(inner_flops)
    if name == "while":
        return _max_trip_count(params["cond_jaxpr"].jaxpr) * sum(inner_flops)
    if name == "pallas_call":
        # The jaxpr inside is that of one block of the kernel's grid.
        return math.prod(params["grid_mapping"].grid) * sum(inner_flops)
    if name == "cond":
        # Of the branches, the most expensive one.
        return max(inner_flops)
    if name == "shard_map":
        # The jaxpr inside is that of one shard. JAX 0.10.0 has another name for the axes.
        axes = params["manual_axes" if "manual_axes" in params else "newly_manual_axes"]
        shards = math.prod(params["mesh"].shape[axis] for axis in axes)
        return shards * sum(inner_flops)

    return sum(inner_flops)


def _dot_flops(equation: core.JaxprEqn) -> float:
    """Two FLOPs per element of the result and of the contracted axes."""
    (contracted_axes, _), _ = equation.params["dimension_numbers"]
    left_shape = _shape(equation.invars[0])
    contracted_size = math.prod(left_shape[axis] for axis in contracted_axes)
    return 2.0 * math.prod(_shape(equation.outvars[0])) * contracted_size


def _convolution_flops(equation: core.JaxprEqn) -> float:
    """Two FLOPs per element of the result and of the kernel of one output feature."""
    kernel_shape = _shape(equation.invars[1])
    feature_axis = equation.params["dimension_numbers"].rhs_spec[0]
    output_size = math.prod(_shape(equation.outvars[0]))
    return 2.0 * output_size * math.prod(kernel_shape) / kernel_shape[feature_axis]


def _attention_product_flops(equation: core.JaxprEqn) -> float:
    """FLOPs of one product of queries ``[N, L, H, C]`` and keys ``[N, S, K, C]``, cuDNN's layout."""
    queries, keys = (_shape(variable) for variable in equation.invars[:2])
    return 2.0 * math.prod(queries) * keys[1]


def _shape(variable: Any) -> tuple[int, ...]:
    """Shape of an operand or of a result of an equation."""
    return variable.aval.shape


def _inner_jaxprs(params: Mapping[str, Any]) -> Iterator[core.Jaxpr]:
    """The jaxprs among the parameters of an equation."""
    for param in params.values():
        # The branches of a ``cond`` are a tuple of jaxprs.
        for value in param if isinstance(param, tuple | list) else (param,):
            if isinstance(value, core.ClosedJaxpr):
                yield value.jaxpr
            elif isinstance(value, core.Jaxpr):
                yield value


def _max_trip_count(condition: core.Jaxpr) -> int:
    """The largest constant that the condition of a ``while`` compares the loop's counter with."""
    # ``counter < limit``, perhaps beside other conditions that end the loop earlier.
    limits = [
        int(operand.val)
        for equation in condition.eqns
        if equation.primitive.name == "lt"
        for operand in equation.invars
        if isinstance(operand, core.Literal)
    ]
    if not limits:
        raise ValueError("a while loop must compare its counter with a constant; this one has none")
    return max(limits)
