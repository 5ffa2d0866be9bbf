"""Opens a folder of PEFT's adapters and adds them to the kernels of their base.

Names and shapes are checked before a number is read: every tensor must belong to a linear module
of the model, and every module that the settings name must have both of its tensors.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from corl_jax.core.errors import UserError
from corl_jax.core.types import Params
from corl_jax.models.janus.config import JanusConfig
from corl_jax.models.lora import merge_adapters
from corl_jax.porting.adapters.names import (
    A_SUFFIX,
    B_SUFFIX,
    PREFIX,
    Modules,
    kind_of,
    linear_modules,
)
from corl_jax.porting.adapters.settings import SETTINGS_FILE, WEIGHTS_FILE, AdapterSettings
from corl_jax.porting.file_digests import files_digest
from corl_jax.porting.rules import Shape, check_tensor_names
from corl_jax.porting.tensors import WeightFiles, open_weights
from corl_jax.porting.workdir_policy import replicated

PATTERNS = (WEIGHTS_FILE, "adapter_model.bin")
LoadParams = Callable[[Mapping[str, jax.ShapeDtypeStruct]], Params]


@dataclasses.dataclass(frozen=True)
class AdapterFolder:
    """An opened folder of adapters that fit a model.

    Attributes:
      path: of the folder.
      settings: of all adapters.
      weights: the opened file.
      modules: the adapted modules, with the kernels that they are.
      shapes: of these kernels by path, in full.
    """

    path: pathlib.Path
    settings: AdapterSettings
    weights: WeightFiles
    modules: Modules
    shapes: Mapping[str, Shape]

    @classmethod
    def open(
        cls,
        path: pathlib.Path,
        settings: AdapterSettings,
        cfg: JanusConfig,
        param_shapes: Mapping[str, Shape],
    ) -> AdapterFolder:
        """Checks the names and shapes of all tensors.

        Args:
          path: of the folder.
          settings: of the folder.
          cfg: sizes of the base.
          param_shapes: of the base by path.

        Raises:
          UserError: no weights, a damaged file, or names or shapes that do not fit.
        """
        weights = open_weights(path, PATTERNS)
        every_module = linear_modules(cfg)
        stored = {name: header.shape for name, header in weights.headers.items()}
        names = _expected_names(settings, every_module, _stored_names(stored), str(path))

        expected: dict[str, Shape] = {}
        for name in names:
            *_, inputs, outputs = param_shapes[every_module[name].path]
            expected[PREFIX + name + A_SUFFIX] = (settings.rank, inputs)
            expected[PREFIX + name + B_SUFFIX] = (outputs, settings.rank)
        check_tensor_names(expected, stored, (), str(path))

        modules = {name: every_module[name] for name in sorted(names)}
        shapes = {part.path: param_shapes[part.path] for part in modules.values()}
        return cls(path, settings, weights, modules, shapes)

    def load_merged(
        self, load_base: LoadParams, structs: Mapping[str, jax.ShapeDtypeStruct]
    ) -> Params:
        """Parameters of the base with the adapters added, in float32, and cast at the end.

        Args:
          load_base: reads parameters of the base.
          structs: shape, dtype and sharding of each parameter to read, by path.
        """
        # Reading in float32 loses nothing of a base that is stored in fewer bits.
        kernels = {path: structs[path] for path in self.shapes if path in structs}
        wide = {path: struct.update(dtype=jnp.float32) for path, struct in kernels.items()}
        params = load_base({**structs, **wide})

        # Adapters are small, so every device receives all of them.
        for path, struct in kernels.items():
            place = replicated(struct.sharding)
            for name, array in zip(("lora_a", "lora_b"), self._read_adapter(path), strict=True):
                adapter = path.removesuffix("kernel") + name
                params[adapter] = jax.make_array_from_callback(
                    array.shape, place, array.__getitem__
                )
        return merge_adapters(params, self.settings.scale, structs)

    def digest(self) -> str:
        """Hash of the settings and of the bytes of the adapters."""
        return files_digest({self.path / SETTINGS_FILE, *self.weights.file_of.values()})

    def _read_adapter(self, path: str) -> tuple[np.ndarray, np.ndarray]:
        """A ``[..., inputs, rank]`` and B ``[..., rank, outputs]``; zero in layers without any."""
        *stack, inputs, outputs = self.shapes[path]
        rank = self.settings.rank
        lora_a = np.zeros((*stack, inputs, rank), np.float32)
        lora_b = np.zeros((*stack, rank, outputs), np.float32)

        for name, part in self.modules.items():
            if part.path == path:
                place = ... if part.layer is None else part.layer
                lora_a[place] = self.weights.read(PREFIX + name + A_SUFFIX).T
                lora_b[place] = self.weights.read(PREFIX + name + B_SUFFIX).T
        return lora_a, lora_b


def _stored_names(stored: Collection[str]) -> set[str]:
    """The modules that a file has tensors of; names of any other kind are left out."""
    names = set()
    for name in stored:
        for suffix in (A_SUFFIX, B_SUFFIX):
            if name.startswith(PREFIX) and name.endswith(suffix):
                names.add(name.removeprefix(PREFIX).removesuffix(suffix))
    return names


def _expected_names(
    settings: AdapterSettings, modules: Modules, stored: Collection[str], folder: str
) -> set[str]:
    """The modules that must have an adapter.

    A list of targets names them, as PEFT reads it. Of a pattern, which may be any regular expression
    of a stranger, nothing is computed: what is stored counts, and must be in all layers.
    """
    if not isinstance(settings.targets, str):
        chosen = {
            name
            for name in modules
            if _ends_with(name, settings.targets)
            and not _ends_with(name, settings.excluded)
            and _has_layer(modules[name].layer, settings.layers)
        }
        if not chosen:
            raise UserError(
                f"target_modules of the adapters in {folder!r} must name linear modules of Janus, "
                f"such as 'q_proj'; got {', '.join(settings.targets)!r}; choose the adapters of "
                "this model"
            )
        return chosen

    kinds = defaultdict(set)
    for name in modules:
        kinds[kind_of(name)].add(name)
    return {
        name
        for kind in {kind_of(name) for name in stored if name in modules}
        for name in kinds[kind]
        if _has_layer(modules[name].layer, settings.layers)
    }


def _ends_with(name: str, ends: Collection[str]) -> bool:
    return any(name == end or name.endswith(f".{end}") for end in ends)


def _has_layer(layer: int | None, layers: tuple[int, ...] | None) -> bool:
    """Whether a module of this layer is adapted; one outside of the layers is not, if some are named."""
    return layers is None or layer in layers
