"""Reward models by name: how each is read from a folder, and its random twin for tests and tiny runs.

In: a kind of net and where it lies (a folder, a hub id, or ``tiny``). Out: a ``LoadedModel``: module, placed parameters, sizes.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx

from corl_jax.core.errors import UserError
from corl_jax.core.sharding import Sharder
from corl_jax.core.trees import flatten_abstract
from corl_jax.core.types import Params
from corl_jax.models.janus.model import logical_axes
from corl_jax.models.random_params import random_params
from corl_jax.porting import hub
from corl_jax.porting.janus.folder import read_json
from corl_jax.porting.reader import Reader
from corl_jax.porting.rules import Rule
from corl_jax.porting.tensors import WEIGHTS

TINY = "tiny"
"""A net of the smallest size with random weights, for tests and for runs that only show that all is connected."""


@dataclasses.dataclass(frozen=True)
class RewardModelSpec:
    """One kind of reward model.

    Attributes:
      name: as errors call it, e.g. ``captioner``.
      build: ``(sizes, rngs) -> module``.
      tiny: the smallest sizes. full: those of ``home``, for plans.
      read_config: ``(config.json, folder) -> sizes``.
      rules: the table of tensors.
      unused: patterns of tensors that are knowingly left alone.
      rename: see ``porting.reader.Reader``.
      home: id on the Hugging Face hub of what the papers used. gigabytes: its size there.
      config: the file with the sizes; None where no file has them, and ``read_config`` is handed nothing.
      weights, beside: see ``porting.tensors.open_weights``.
      choose: from a folder to the kind that it is, where a model is published in several layouts.
    """

    name: str
    build: Callable[[Any, nnx.Rngs], nnx.Module]
    tiny: Any
    full: Any
    read_config: Callable[[Any, str], Any]
    rules: Sequence[Rule]
    home: str
    gigabytes: float
    unused: Sequence[str] = ()
    rename: Callable[[str, frozenset[str]], str] = lambda name, found: name
    config: str | None = "config.json"
    weights: Sequence[str] = WEIGHTS
    beside: Sequence[str] = ()
    choose: Callable[[pathlib.Path], RewardModelSpec] | None = None


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A reward model that is ready to run.

    Attributes:
      graphdef: of the module; ``core.trees.bind(graphdef, params)`` gives it back.
      params: placed; for plans only their shapes.
      cfg: sizes.
      folder: where its tokenizer and the like lie; None for ``tiny``.
    """

    graphdef: Any
    params: Params
    cfg: Any
    folder: pathlib.Path | None


def load_reward_model(kind: RewardModelSpec, source: str, sharder: Sharder) -> LoadedModel:
    """Reads a reward model, placed on the mesh like everything else.

    Args:
      kind: what it must be.
      source: folder, hub id, or ``tiny``.
      sharder: of the run.

    Raises:
      UserError: no such folder, a damaged one, or one of another kind.
    """
    folder = None if source == TINY else _located(kind, source)
    if folder is not None and kind.choose is not None:
        kind = kind.choose(folder)
    cfg = kind.tiny if folder is None else _sizes(kind, folder)
    module, wanted = _abstract(kind, cfg, sharder)
    graphdef = nnx.split(module)[0]
    if folder is None:
        made = random_params(module)
        placed = {
            path: jax.device_put(made[path], struct.sharding) for path, struct in wanted.items()
        }
        return LoadedModel(graphdef, placed, cfg, None)
    shapes = {path: struct.shape for path, struct in wanted.items()}
    reader = Reader(folder, shapes, kind.rules, kind.unused, kind.rename, kind.weights, kind.beside)
    return LoadedModel(graphdef, reader.params(wanted), cfg, folder)


def abstract_reward_model(kind: RewardModelSpec, source: str, sharder: Sharder) -> LoadedModel:
    """The same for a plan: shapes in the place of parameters; of a hub id, or none, the sizes of ``kind.home``."""
    folder = pathlib.Path(source).expanduser()
    if source and source != TINY and folder.is_dir():
        kind = kind.choose(folder) if kind.choose is not None else kind
        cfg = _sizes(kind, folder)
    else:
        cfg = kind.tiny if source == TINY else kind.full
    module, wanted = _abstract(kind, cfg, sharder)
    return LoadedModel(nnx.split(module)[0], cast(Params, wanted), cfg, None)


def _abstract(
    kind: RewardModelSpec, cfg: Any, sharder: Sharder
) -> tuple[nnx.Module, dict[str, jax.ShapeDtypeStruct]]:
    """The module under ``nnx.eval_shape``, and its parameters as they are to lie on the mesh."""
    module = nnx.eval_shape(lambda: kind.build(cfg, nnx.Rngs(0)))
    axes = logical_axes(module)
    return module, {
        path: jax.ShapeDtypeStruct(
            leaf.shape, jnp.float32, sharding=sharder.checked_sharding(leaf.shape, axes[path], path)
        )
        for path, leaf in flatten_abstract(module).items()
    }


def _sizes(kind: RewardModelSpec, folder: pathlib.Path) -> Any:
    return kind.read_config(
        {} if kind.config is None else read_json(folder, kind.config), str(folder)
    )


def _located(kind: RewardModelSpec, source: str) -> pathlib.Path:
    folder = pathlib.Path(source).expanduser()
    if folder.is_dir():
        return folder
    hint = f"{kind.home} ({kind.gigabytes} GB) is what the papers used"
    if not hub.is_id(source):
        raise UserError(
            f"the {kind.name} {source!r} is no folder; expected one, a hub id, or {TINY!r}; {hint}"
        )
    try:
        return hub.download(source, kind.weights)
    except UserError as error:
        raise UserError(f"the {kind.name}: {error}; {hint}") from None
