"""Arithmetic of a program, from its trace. In: a function and abstract arguments. Out: FLOPs on all devices together.

Products and convolutions count, at two per multiply-add, loops as often as they run at most; what is computed again in
a backward pass counts again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core


def of_call(call: Callable[..., Any], *args: Any) -> float:
    """FLOPs of ``call(*args)``."""
    return of_jaxpr(jax.make_jaxpr(call)(*args).jaxpr)


def of_jaxpr(jaxpr: Any) -> float:
    """FLOPs of one run."""
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return (
            2.0
            * math.prod(equation.outvars[0].aval.shape)
            * math.prod(left[axis] for axis in contracted)
        )
    if name == "conv_general_dilated":
        kernel, features = equation.invars[1].aval.shape, params["dimension_numbers"].rhs_spec[0]
        return (
            2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) / kernel[features]
        )
    inner = [of_jaxpr(one) for one in _inner(params)]
    if name == "scan":
        return params["length"] * sum(inner)
    if name == "while":
        return _trips(params["cond_jaxpr"].jaxpr) * sum(inner)
    if name == "cond":
        return max(inner)
    if name == "shard_map":
        return math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"]) * sum(
            inner
        )
    return sum(inner)


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, core.ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, core.Jaxpr):
                yield one


def _trips(condition: Any) -> int:
    """The number that a loop's counter is compared with."""
    limits = [
        int(part.val)
        for equation in condition.eqns
        if equation.primitive.name == "lt"
        for part in equation.invars
        if isinstance(part, core.Literal)
    ]
    if not limits:
        raise ValueError("a loop compares its counter with no constant")
    return max(limits)
