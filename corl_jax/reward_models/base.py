"""The description of a reward model, and how it is loaded from a folder or from the hub.

In: a ``RewardModelSpec`` and a source (a folder, a hub id, or ``tiny``). Out: a ``LoadedModel``,
whose parameters are on the mesh.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx

from corl_jax.core.checks.paths import user_path
from corl_jax.core.errors import UserError
from corl_jax.core.sharding import Sharder
from corl_jax.core.trees import flatten_abstract
from corl_jax.core.types import Params
from corl_jax.models.janus.model import logical_axes
from corl_jax.models.random_params import random_params
from corl_jax.porting import hub
from corl_jax.porting.janus.folder import read_json
from corl_jax.porting.reader import CheckpointReader
from corl_jax.porting.rules import TensorRule
from corl_jax.porting.tensors import WEIGHT_PATTERNS

TINY = "tiny"
"""The source of a model of the smallest size with random weights, for tests and for trial runs."""


@dataclasses.dataclass(frozen=True)
class RewardModelSpec:
    """One kind of reward model: how it is built, and how its weights are found and read.

    Attributes:
      name: what error messages call the model, e.g. ``captioner``.
      build_module: ``(config, rngs) -> module``.
      tiny_config: sizes of the random model for tests and trial runs.
      full_config: sizes of the model at ``hub_id``, for plans.
      read_config: ``(content of config_file, folder) -> config``.
      rules: the table from tensors of the weight files to parameters of the module.
      hub_id: id on the Hugging Face hub of the model that the papers used.
      download_gb: size of that model on the hub, in GB.
      unused_tensors: patterns of tensor names in the files that no parameter needs.
      rename_tensor: ``(name in rules, all names in the files) -> name in the files``, where files
        of one kind name a tensor differently.
      config_file: the JSON file with the sizes. None where no file has them; ``read_config`` then
        receives an empty dictionary.
      other_config_files: names of that file in other layouts of the same model.
      weight_files: patterns of weight files; the first pattern that a folder has is read.
      extra_files: patterns of files that are read besides, where they exist.
      choose_layout: ``folder -> spec``, for a model that is published in several layouts.
    """

    # What the model is.
    name: str
    build_module: Callable[[Any, nnx.Rngs], nnx.Module]
    tiny_config: Any
    full_config: Any

    # How a folder of it is read.
    read_config: Callable[[Any, str], Any]
    rules: Sequence[TensorRule]

    # Where to get it; used in errors and plans.
    hub_id: str
    download_gb: float

    # Variants of the files; the defaults fit a plain Hugging Face folder.
    unused_tensors: Sequence[str] = ()
    rename_tensor: Callable[[str, frozenset[str]], str] = lambda name, file_names: name
    config_file: str | None = "config.json"
    other_config_files: Sequence[str] = ()
    weight_files: Sequence[str] = WEIGHT_PATTERNS
    extra_files: Sequence[str] = ()
    choose_layout: Callable[[pathlib.Path], RewardModelSpec] | None = None

    @property
    def config_files(self) -> tuple[str, ...]:
        """Names of the file with the sizes, of which a folder has one; () if no file has them."""
        return () if self.config_file is None else (self.config_file, *self.other_config_files)


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A reward model that is ready to run.

    Attributes:
      graphdef: static part of the module; ``core.trees.bind(graphdef, params)`` gives the module.
      params: parameters on the mesh; only their shapes in a plan.
      cfg: sizes.
      folder: folder with its tokenizer and other small files; None for ``tiny``.
    """

    graphdef: Any
    params: Params
    cfg: Any
    folder: pathlib.Path | None


def load_reward_model(spec: RewardModelSpec, source: str, sharder: Sharder) -> LoadedModel:
    """Reads a reward model onto the mesh, sharded like the policy.

    Args:
      spec: the kind of model.
      source: folder, hub id, or ``tiny``.
      sharder: the mesh of the run.

    Raises:
      UserError: there is no such folder, it is damaged, or it holds another kind of model.
    """
    # The folder, and the spec of the layout that its files have.
    folder = None if source == TINY else _find_folder(spec, source)
    if folder is not None and spec.choose_layout is not None:
        spec = spec.choose_layout(folder)
    cfg = spec.tiny_config if folder is None else _read_sizes(spec, folder)

    # Nothing is allocated before the shapes and shardings of all parameters are known.
    module, structs = _abstract_module(spec, cfg, sharder)
    graphdef = nnx.split(module)[0]

    # A tiny model has random weights, the same in every run.
    if folder is None:
        arrays = random_params(module)
        params = {
            path: jax.device_put(arrays[path], struct.sharding) for path, struct in structs.items()
        }
        return LoadedModel(graphdef, params, cfg, None)

    # Names and shapes of all tensors are checked before the first is read.
    shapes = {path: struct.shape for path, struct in structs.items()}
    reader = CheckpointReader(
        folder,
        shapes,
        spec.rules,
        unused=spec.unused_tensors,
        rename=spec.rename_tensor,
        patterns=spec.weight_files,
        extra_patterns=spec.extra_files,
    )
    return LoadedModel(graphdef, reader.load_params(structs), cfg, folder)


def abstract_reward_model(spec: RewardModelSpec, source: str, sharder: Sharder) -> LoadedModel:
    """The same model for a plan, with the shapes of its parameters only; nothing is downloaded.

    Args:
      spec: the kind of model.
      source: folder, ``tiny``, or a hub id. For a hub id, and for an empty source, the sizes are
        those of ``spec.hub_id``.
      sharder: the mesh of the plan.
    """
    # The sizes of a folder that is on this machine, else the known ones.
    folder = user_path(source, f"the {spec.name}")
    if source and source != TINY and folder.is_dir():
        spec = spec.choose_layout(folder) if spec.choose_layout is not None else spec
        cfg = _read_sizes(spec, folder)
    else:
        cfg = spec.tiny_config if source == TINY else spec.full_config

    module, structs = _abstract_module(spec, cfg, sharder)
    return LoadedModel(nnx.split(module)[0], cast(Params, structs), cfg, None)


def _abstract_module(
    spec: RewardModelSpec, cfg: Any, sharder: Sharder
) -> tuple[nnx.Module, dict[str, jax.ShapeDtypeStruct]]:
    """The module without arrays, and the shape, dtype and sharding of each of its parameters."""
    # Under eval_shape the module's initializers are traced, but never run.
    module = nnx.eval_shape(lambda: spec.build_module(cfg, nnx.Rngs(0)))
    axes = logical_axes(module)

    structs = {}
    for path, leaf in flatten_abstract(module).items():
        sharding = sharder.checked_sharding(leaf.shape, axes[path], path)
        # Reward models run in float32 whatever dtype their files have.
        structs[path] = jax.ShapeDtypeStruct(leaf.shape, jnp.float32, sharding=sharding)
    return module, structs


def _read_sizes(spec: RewardModelSpec, folder: pathlib.Path) -> Any:
    """The model's config, from the JSON file in ``folder`` that holds its sizes."""
    raw = {} if spec.config_file is None else read_json(folder, spec.config_file)
    return spec.read_config(raw, str(folder))


def _find_folder(spec: RewardModelSpec, source: str) -> pathlib.Path:
    """The folder ``source``, or that of the hub id ``source`` in the local cache."""
    folder = user_path(source, f"the {spec.name}")
    if folder.is_dir():
        return folder

    hint = f"the papers used {spec.hub_id} ({spec.download_gb} GB)"
    if not hub.is_id(source):
        raise UserError(
            f"the {spec.name} must be a folder, a hub id or {TINY!r}; got {source!r}, "
            f"which is not a folder; {hint}"
        )

    # The hub's error says what went wrong; the hint adds which model to take.
    try:
        return hub.download(source, spec.weight_files, spec.config_files)
    except UserError as error:
        raise UserError(f"the {spec.name}: {error}; {hint}") from None
