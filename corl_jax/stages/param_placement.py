"""Where parameters lie while the policy is trained, and where while it samples.

In: logical axes, two tables of rules. Out: placed shapes, and the one call that moves parameters from one to the other.

A decoding step reads every weight once, so weights that are spread over ``fsdp`` would cross the links at every token.
The rollout has rules of its own, by default without ``fsdp`` for weights; they are placed anew once a step.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax

from corl_jax.core.errors import UserError
from corl_jax.core.sharding import AXES, DEFAULT_RULES, Rules, Sharder
from corl_jax.core.trees import matches
from corl_jax.core.types import Params

ParamSpecs = dict[str, jax.ShapeDtypeStruct]

MULTIPLIED = ("*/kernel", "*embed/embedding")
"""Parameters that the model casts to its compute dtype at each use, so that a cast ahead changes no number."""
EXACT = ("image_tokenizer/*",)
"""Computed in float32 throughout."""


def read_sharding_rules(changes: Mapping[str, str], name: str) -> Rules:
    """The rules table with the changes of a config: logical name to mesh axes joined by ``+``, ``""`` for none.

    Raises:
      UserError: a name without a rule, or an axis that meshes do not have.
    """
    rules = dict(DEFAULT_RULES)
    for logical, text in changes.items():
        axes = tuple(part for part in text.split("+") if part)
        if logical not in rules:
            raise UserError(
                f"config.rules.{name} has {logical!r}, which no array has; expected {', '.join(rules)}"
            )
        if wrong := [axis for axis in axes if axis not in AXES]:
            raise UserError(
                f"config.rules.{name}.{logical}={text!r} names mesh axis {wrong[0]!r}; "
                f"expected some of {', '.join(AXES)} joined by +, or nothing"
            )
        rules[logical] = axes or None
    return rules


def param_specs(
    shapes: Mapping[str, Any], axes: Mapping[str, tuple[str | None, ...]], sharder: Sharder
) -> ParamSpecs:
    """Shape, dtype and placement of every parameter.

    Raises:
      UserError: an axis does not divide.
    """
    return {
        path: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=sharder.checked_sharding(leaf.shape, axes[path], path)
        )
        for path, leaf in shapes.items()
    }


def with_param_dtype(structs: ParamSpecs, dtype: Any) -> ParamSpecs:
    """``structs`` with all that is not ``EXACT`` kept in ``dtype`` between updates.

    In bfloat16 a parameter moves by an update only if that is about 1/256 of it: at CoRL's learning rate most do not.
    That is what the reference code does (decisions 5); moments stay in float32.
    """
    return {
        path: one if matches(path, EXACT) else one.update(dtype=dtype)
        for path, one in structs.items()
    }


def cast_matmul_params(structs: ParamSpecs, dtype: Any) -> ParamSpecs:
    """``structs`` with the matrices of all that computes in ``dtype`` kept in it."""
    return {
        path: struct.update(dtype=dtype)
        if matches(path, MULTIPLIED)
        and not matches(path, EXACT)
        and struct.dtype.itemsize > dtype.itemsize
        else struct
        for path, struct in structs.items()
    }


def reshard(params: Params, structs: ParamSpecs) -> Params:
    """``params`` placed and cast as ``structs`` say; what fits already is handed on as it is, without a copy."""
    moving = {path: leaf for path, leaf in params.items() if not matches_spec(leaf, structs[path])}
    if not moving:
        return params
    wanted = tuple(structs[path] for path in moving)
    return params | dict(zip(moving, _mover(wanted)(tuple(moving.values())), strict=True))


@functools.lru_cache(maxsize=4)
def _mover(wanted: tuple[jax.ShapeDtypeStruct, ...]) -> Any:
    def move(leaves):
        return tuple(leaf.astype(struct.dtype) for leaf, struct in zip(leaves, wanted, strict=True))

    return jax.jit(move, out_shardings=tuple(struct.sharding for struct in wanted))


def matches_spec(leaf: Any, struct: jax.ShapeDtypeStruct) -> bool:
    """Whether an array, or the shape of one, is of that type and placement already."""
    return leaf.dtype == struct.dtype and leaf.sharding.is_equivalent_to(
        struct.sharding, len(leaf.shape)
    )
