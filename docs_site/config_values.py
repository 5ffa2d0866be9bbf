"""Values of configs by dotted name, and as a page shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_collections

from corl_jax.configs import common


def show_value(value: Any) -> str:
    """A value as a reader writes it in a flag."""
    if isinstance(value, Mapping):
        shown = [f"`{key}={item}`" for key, item in value.items() if item not in ("", {})]
        return ", ".join(shown) or "an empty block"
    return '`""`' if value == "" else f"`{value}`"


def base_values() -> dict[str, Any]:
    """The values that every config begins with, by dotted name."""
    values = flat(common.base("rl", common.parse_arg(None)))
    return {key: value for key, value in values.items() if key not in ("stage", "steps")}


def flat(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The values of a config by dotted name; blocks without keys are values."""
    values: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict) and len(value):
            values |= {f"{name}.{key}": item for key, item in flat(value).items()}
        else:
            values[name] = {} if isinstance(value, ml_collections.ConfigDict) else value
    return values
