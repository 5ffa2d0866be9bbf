"""Shape, dtype and sharding of parameters, while the policy is trained and while it samples.

Decoding reads every weight at every token, so weights that are sharded over ``fsdp`` would cross
the links between devices at every token. Rollouts therefore have sharding rules of their own, by
default without ``fsdp`` for weights, and the parameters are resharded once per step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from corl_jax.core.errors import UserError
from corl_jax.core.sharding import AXES, DEFAULT_RULES, Rules, Sharder
from corl_jax.core.trees import matches
from corl_jax.core.types import Params
from corl_jax.models.janus.model import JANUS_FLOAT32_PATTERNS, JANUS_MATMUL_PATTERNS

ParamSpecs = dict[str, jax.ShapeDtypeStruct]
"""Parameter path to shape, dtype and sharding."""


def read_sharding_rules(changes: Mapping[str, str], name: str) -> Rules:
    """The default rules with the changes of ``config.sharding_rules.<name>``.

    Args:
      changes: logical axis name to mesh axes joined by ``+``; "" replicates that axis.
      name: ``update`` or ``rollout``.

    Raises:
      UserError: a logical name that no array has, or an axis that meshes do not have.
    """
    # Rules that the config does not name stay at their defaults.
    rules = dict(DEFAULT_RULES)
    for logical_name, text in changes.items():
        key = f"config.sharding_rules.{name}"
        if logical_name not in rules:
            raise UserError(
                f"{key} must name logical axes of arrays, some of {', '.join(rules)}; got "
                f"{logical_name!r}"
            )
        axes = tuple(part for part in text.split("+") if part)
        if unknown := [axis for axis in axes if axis not in AXES]:
            raise UserError(
                f"{key}.{logical_name} must be mesh axes joined by +, some of {', '.join(AXES)}, "
                f"or nothing; got {unknown[0]!r} in {text!r}"
            )
        rules[logical_name] = axes or None
    return rules


def param_specs(
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    logical_axes: Mapping[str, tuple[str | None, ...]],
    sharder: Sharder,
) -> ParamSpecs:
    """``shapes`` with the sharding that the rules give each parameter.

    Raises:
      UserError: a mesh axis does not divide an axis of a parameter.
    """
    specs = {}
    for path, leaf in shapes.items():
        sharding = sharder.checked_sharding(leaf.shape, logical_axes[path], path)
        specs[path] = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    return specs


def with_param_dtype(specs: ParamSpecs, dtype: jnp.dtype) -> ParamSpecs:
    """``specs`` whose parameters are kept in ``dtype`` between updates.

    In bfloat16 an update moves a parameter only if it is about 1/256 of it or more, which at CoRL's
    learning rate leaves most parameters where they are; see docs/decisions.md#bfloat16-parameters.
    """
    return {
        path: spec if matches(path, JANUS_FLOAT32_PATTERNS) else spec.update(dtype=dtype)
        for path, spec in specs.items()
    }


def cast_matmul_params(specs: ParamSpecs, dtype: jnp.dtype) -> ParamSpecs:
    """``specs`` whose matrices are kept in ``dtype`` where that is narrower.

    The model casts them to its compute dtype at each use anyway, so that no number changes.
    """

    def is_cast(path: str, spec: jax.ShapeDtypeStruct) -> bool:
        is_matmul = matches(path, JANUS_MATMUL_PATTERNS)
        is_exact = matches(path, JANUS_FLOAT32_PATTERNS)
        return is_matmul and not is_exact and spec.dtype.itemsize > dtype.itemsize

    return {
        path: spec.update(dtype=dtype) if is_cast(path, spec) else spec
        for path, spec in specs.items()
    }


def reshard(params: Params, specs: ParamSpecs) -> Params:
    """``params`` in the dtypes and shardings of ``specs``.

    A parameter that has them already is returned as it is, without a copy.
    """
    # In float32 on one device nothing moves, and the policy samples from the very same arrays.
    moving = {path: leaf for path, leaf in params.items() if not matches_spec(leaf, specs[path])}
    if not moving:
        return params
    program = _reshard_program(tuple(specs[path] for path in moving))
    resharded = program(tuple(moving.values()))
    return params | dict(zip(moving, resharded, strict=True))


@functools.lru_cache(maxsize=4)
def _reshard_program(
    specs: tuple[jax.ShapeDtypeStruct, ...],
) -> Callable[[tuple[jax.Array, ...]], tuple[jax.Array, ...]]:
    """One program that casts and moves arrays; cached, since every step runs it."""

    def cast(leaves: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        return tuple(leaf.astype(spec.dtype) for leaf, spec in zip(leaves, specs, strict=True))

    return jax.jit(cast, out_shardings=tuple(spec.sharding for spec in specs))


def matches_spec(leaf: jax.Array | jax.ShapeDtypeStruct, spec: jax.ShapeDtypeStruct) -> bool:
    """Whether an array has the dtype and the sharding of ``spec`` already."""
    assert leaf.sharding is not None
    is_placed = leaf.sharding.is_equivalent_to(spec.sharding, len(leaf.shape))
    return leaf.dtype == spec.dtype and is_placed
