"""Parameter trees: NNX modules to flat dictionaries and back, path patterns, digests."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from flax import nnx

from corl_jax.core.errors import UserError
from corl_jax.core.types import Params

Leaf = TypeVar("Leaf")


def flatten(module: nnx.Module) -> tuple[nnx.GraphDef, Params]:
    """Splits an NNX module into its static definition and its parameters by path."""
    graphdef, state = nnx.split(module)
    # ``leaf[...]`` takes the array out of its nnx.Variable.
    return graphdef, {
        "/".join(map(str, path)): leaf[...] for path, leaf in nnx.to_flat_state(state)
    }


def flatten_abstract(module: nnx.Module) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of the parameters of an abstract module (``nnx.eval_shape``) by path."""
    _, state = nnx.split(module)
    return {
        "/".join(map(str, path)): jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        for path, leaf in nnx.to_flat_state(state)
    }


def bind(graphdef: nnx.GraphDef, params: Params) -> Any:
    """The inverse of ``flatten``: a module over ``params``; cheap, and fine under ``jit``."""
    return nnx.merge(
        graphdef, nnx.from_flat_state([(_keys(path), leaf) for path, leaf in params.items()])
    )


def _keys(path: str) -> tuple[str | int, ...]:
    """The path as NNX has it, where positions in lists are numbers."""
    return tuple(int(key) if key.isdigit() else key for key in path.split("/"))


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Whether ``path`` matches any of the shell patterns; ``*`` and ``**`` also match slashes."""
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def partition(
    params: dict[str, Leaf], patterns: Sequence[str]
) -> tuple[dict[str, Leaf], dict[str, Leaf]]:
    """Splits parameters into those that match ``patterns`` and the remaining ones.

    Raises:
      UserError: a pattern matches no parameter.
    """
    # A misspelt pattern would silently freeze what should be trained.
    for pattern in patterns:
        if not any(matches(path, [pattern]) for path in params):
            modules = sorted({path.split("/")[0] for path in params})
            raise UserError(
                f"config.trainable pattern {pattern!r} matches no parameter; "
                f"the model has {', '.join(modules)}"
            )

    chosen = {path: leaf for path, leaf in params.items() if matches(path, patterns)}
    remaining = {path: leaf for path, leaf in params.items() if path not in chosen}
    return chosen, remaining


def count(params: Mapping[str, Any]) -> int:
    """Number of parameters, from arrays or from their shapes."""
    return sum(int(np.prod(leaf.shape)) for leaf in params.values())


def digest(params: Params) -> str:
    """Hash of paths, shapes, dtypes and bits; parameters of equal digests are bit for bit equal."""
    # Paths are sorted, so that the order of insertion does not matter.
    sha = hashlib.sha256()
    for path in sorted(params):
        array = np.asarray(jax.device_get(params[path]))
        sha.update(f"{path} {array.shape} {array.dtype}".encode())
        # Its bytes where they are, without a copy of them.
        sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return sha.hexdigest()
