"""Writes the adapters of a run as a folder that ``peft.PeftModel.from_pretrained`` loads."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from corl_jax.core.errors import UserError
from corl_jax.core.types import Params
from corl_jax.engine.checkpoints.handoff import load_params, saved_shapes
from corl_jax.models.janus.config import JanusConfig
from corl_jax.models.lora import is_adapter, kernel_of
from corl_jax.porting.adapters.names import (
    A_SUFFIX,
    B_SUFFIX,
    PREFIX,
    linear_modules,
    target_pattern,
)
from corl_jax.porting.adapters.settings import SETTINGS_FILE, WEIGHTS_FILE, settings_json
from corl_jax.porting.new_folder import check_new_folder, new_folder, write_files
from corl_jax.porting.rules import ParamSlice
from corl_jax.porting.tensors import TensorHeader
from corl_jax.porting.workdir_policy import adapter_scale
from corl_jax.porting.writer import EXPORT_DTYPES, TensorEntry, write_safetensors


@dataclasses.dataclass(frozen=True)
class RunAdapters:
    """The adapters of a work directory.

    Attributes:
      params: ``lora_a`` ``[..., inputs, rank]`` and ``lora_b`` ``[..., rank, outputs]`` by path.
      rank: of all of them.
      scale: weight of their product.
    """

    params: Params
    rank: int
    scale: float


def load_adapters(workdir: pathlib.Path | None, name: str) -> RunAdapters:
    """Reads the adapters of the newest checkpoint onto one device, and nothing of their base.

    Args:
      workdir: of the run; None for a policy of another kind.
      name: of the policy, for errors.

    Raises:
      UserError: there is no run, it has no adapters, or its checkpoint is damaged.
    """
    device = SingleDeviceSharding(jax.local_devices()[0])
    structs = {
        path: struct.update(sharding=device)
        for path, struct in (saved_shapes(workdir) if workdir else {}).items()
        if is_adapter(path)
    }
    if workdir is None or not structs:
        raise UserError(
            f"--adapters needs a run with adapters (config.lora.rank above 0); {name!r} has "
            "none. Leave --adapters out to export the whole policy"
        )
    ranks = {struct.shape[-1] for path, struct in structs.items() if path.endswith("lora_a")}
    return RunAdapters(load_params(workdir, structs), ranks.pop(), adapter_scale(workdir))


def save_adapters(
    adapters: RunAdapters,
    cfg: JanusConfig,
    base: str,
    out: pathlib.Path,
    *,
    dtype: str = "float32",
    extra_files: Mapping[str, bytes] | None = None,
) -> None:
    """Writes ``adapter_config.json`` and ``adapter_model.safetensors`` into a new folder.

    Args:
      adapters: of a run.
      cfg: sizes of the model.
      base: where others find what the run started from, see ``settings.settings_json``.
      out: new folder, or an empty one; it is complete or absent.
      dtype: one of ``EXPORT_DTYPES``.
      extra_files: as in ``writer.save_folder``.

    Raises:
      UserError: ``out`` exists and is not empty, or writing fails.
    """
    check_new_folder(out)
    kernels = {kernel_of(path) for path in adapters.params}
    modules = {name: part for name, part in linear_modules(cfg).items() if part.path in kernels}
    entries: dict[str, TensorEntry] = {}
    for name, part in modules.items():
        for suffix, leaf in ((A_SUFFIX, "lora_a"), (B_SUFFIX, "lora_b")):
            param = adapters.params[part.path.removesuffix("kernel") + leaf]
            entries[PREFIX + name + suffix] = _entry(param, part, EXPORT_DTYPES[dtype])

    targets = target_pattern(modules)
    settings = settings_json(base, adapters.rank, round(adapters.scale * adapters.rank, 9), targets)
    files = {SETTINGS_FILE: (json.dumps(settings, indent=2) + "\n").encode()}
    with new_folder(out, sum(entry.nbytes for entry in entries.values())) as unfinished:
        write_files({**files, **(extra_files or {})}, unfinished)
        with (unfinished / WEIGHTS_FILE).open("wb") as stream:
            for _ in write_safetensors(entries, stream):
                pass


def _entry(param: jax.Array, part: ParamSlice, dtype: np.dtype) -> TensorEntry:
    """One layer of an adapter's parameter, with its axes in torch's order."""
    layer = param if part.layer is None else param[part.layer]
    header = TensorHeader((layer.shape[1], layer.shape[0]), dtype)
    return TensorEntry(header, functools.partial(_transposed, layer, dtype))


def _transposed(layer: jax.Array, dtype: np.dtype) -> np.ndarray:
    return np.asarray(layer).T.astype(dtype)
