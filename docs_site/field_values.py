"""What a field of a config block may be, from its annotation: in words, by default, by name."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Mapping
from typing import Annotated, Any

from corl_jax.core.checks.config_block import Interval, Keys, OneOf
from corl_jax.core.registry import Registry


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The default of a field; ``dataclasses.MISSING`` where it has none."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def registered(annotation: Any) -> Mapping[str, str]:
    """Name to the first line of its docstring, where a value names entries of a registry."""
    if typing.get_origin(annotation) is not Annotated:
        return {}
    kind, *metadata = typing.get_args(annotation)
    if typing.get_origin(kind) is tuple:
        return registered(typing.get_args(kind)[0])
    registries = [
        bound.names
        for bound in metadata
        if isinstance(bound, OneOf) and isinstance(bound.names, Registry)
    ]
    return {
        name: inspect.cleandoc(registry[name].__doc__ or "").partition("\n")[0]
        for registry in registries
        for name in registry
    }


def allowed_values(annotation: Any) -> str:
    """What a value may be by its annotation, such as ``a whole number of at least 1``."""
    is_annotated = typing.get_origin(annotation) is Annotated
    kind, *metadata = typing.get_args(annotation) if is_annotated else (annotation,)
    arguments, container = typing.get_args(kind), typing.get_origin(kind)
    bounds = [part for part in metadata if not isinstance(part, str)]

    if kind in (int, float):
        interval = next((str(bound) for bound in bounds if isinstance(bound, Interval)), "")
        return ("a whole number" if kind is int else "a number") + interval
    if kind is bool:
        return "True or False"
    if kind is str:
        return next((choices_text(bound) for bound in bounds if isinstance(bound, OneOf)), "a text")
    if container is tuple:
        return f"a tuple, each element {allowed_values(arguments[0])}"
    if container is Mapping:
        keys = next((bound.names for bound in bounds if isinstance(bound, Keys)), ("NAME",))
        return f"a block with {', '.join(keys)}, each {allowed_values(arguments[1])}"
    return "anything"


def choices_text(choices: OneOf) -> str:
    return "one of " + ", ".join(f"`{name}`" if name else '""' for name in choices.names)
