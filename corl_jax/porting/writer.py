"""Writes parameters as a Hugging Face model folder, in either layout of Janus.

Tensors are written one by one, so host memory stays near the size of the largest tensor.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import jax
import ml_dtypes
import numpy as np
from huggingface_hub import split_state_dict_into_shards_factory
from tqdm import tqdm

from corl_jax.core.checks.paths import user_path
from corl_jax.core.errors import UserError
from corl_jax.core.types import Params
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.models.janus.config import JanusConfig
from corl_jax.porting.janus.folder import JanusFolder, janus_tensors
from corl_jax.porting.janus.layouts import LAYOUTS, CheckpointLayout
from corl_jax.porting.janus.sidecar_files import write_sidecar_files
from corl_jax.porting.new_folder import check_new_folder, new_folder, write_files
from corl_jax.porting.rules import CheckpointTensor, ParamSlice
from corl_jax.porting.tensors import SAFETENSORS_DTYPES, TensorHeader, all_finite

SAFETENSORS_NAMES = {dtype: name for name, dtype in SAFETENSORS_DTYPES.items()}

# Dtypes that a policy can be written in, by their name on the command line.
EXPORT_DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
SHARD_BYTES = 5 * 10**9


@dataclasses.dataclass(frozen=True)
class TensorEntry:
    """A tensor to write: its shape and dtype, and a function that returns its numbers."""

    header: TensorHeader
    get_array: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor in the file."""
        return math.prod(self.header.shape) * self.header.dtype.itemsize


def save_folder(
    params: Params,
    cfg: JanusConfig,
    sidecar_folder: str | pathlib.Path,
    out: str | pathlib.Path,
    *,
    layout: CheckpointLayout = LAYOUTS["transformers"],
    dtype: str = "float32",
    passthrough: Mapping[str, TensorEntry] | None = None,
    shard_bytes: int = SHARD_BYTES,
    extra_files: Mapping[str, bytes] | None = None,
) -> None:
    """Writes configuration, weights, tokenizer and processor files to ``out``.

    The folder is written under a temporary name and renamed at the end: it is complete or absent.

    Args:
      params: every parameter of the model.
      cfg: sizes.
      sidecar_folder: folder whose tokenizer and processor files are copied.
      out: new folder, or an empty one.
      layout: one of ``layouts.LAYOUTS``.
      dtype: one of ``EXPORT_DTYPES``.
      passthrough: tensors of the layout that are no parameters and are written unchanged.
      shard_bytes: largest size of a weight file.
      extra_files: content of more files by their path in the folder, such as the card.

    Raises:
      UserError: ``out`` exists and is not empty, the disk is too small, or writing fails.
    """
    out = user_path(out, "the new folder")
    check_new_folder(out)
    if dtype not in EXPORT_DTYPES:
        raise UserError(f"dtype must be {' or '.join(EXPORT_DTYPES)}; got {dtype!r}")

    # Everything that can be checked is checked before the first file is written.
    tokenizer = TextTokenizer.load(sidecar_folder)
    entries = checkpoint_entries(params, cfg, layout, EXPORT_DTYPES[dtype])
    entries |= dict(passthrough or {})

    with new_folder(out, sum(entry.nbytes for entry in entries.values())) as unfinished:
        write_sidecar_files(cfg, tokenizer, pathlib.Path(sidecar_folder), unfinished, layout, dtype)
        write_files(extra_files or {}, unfinished)
        write_weights(entries, unfinished, shard_bytes)


def checkpoint_entries(
    params: Params, cfg: JanusConfig, layout: CheckpointLayout, dtype: np.dtype
) -> dict[str, TensorEntry]:
    """Every tensor of the model by its name in the layout; numbers are computed on request."""

    # A call per tensor: a closure made in the loop itself would see the last tensor only.
    def entry(tensor: CheckpointTensor) -> TensorEntry:
        def get_array() -> np.ndarray:
            return tensor.assemble(functools.partial(_get_slice, params)).astype(dtype)

        return TensorEntry(TensorHeader(tensor.shape, dtype), get_array)

    return {name: entry(tensor) for name, tensor in janus_tensors(cfg, layout).items()}


def passthrough_entries(
    source: JanusFolder | None, layout: CheckpointLayout
) -> dict[str, TensorEntry]:
    """Tensors of ``source`` that no parameter is made of, to be written again unchanged.

    Args:
      source: the folder that the policy was read from; None for a work directory, which has no such
        tensors.
      layout: to write. A layout other than the source's has no names for them.
    """
    if source is None or source.layout is not layout:
        return {}

    # Examples are the unused pooling head and the codebook statistics of the original layout.
    weights = source.reader.weights
    return {
        name: TensorEntry(weights.headers[name], functools.partial(weights.read, name))
        for name in source.reader.unused_names()
    }


def _get_slice(params: Params, param_slice: ParamSlice) -> np.ndarray:
    """A parameter, or one layer of it, on the host."""
    param = params[param_slice.path]
    if param_slice.layer is None:
        return np.asarray(param)

    # A parameter on the host may be a memory-mapped file: only the layer is read.
    if isinstance(param, np.ndarray):
        return param[param_slice.layer]
    return np.asarray(jax.lax.dynamic_index_in_dim(param, param_slice.layer, keepdims=False))


def write_weights(
    entries: Mapping[str, TensorEntry], folder: pathlib.Path, shard_bytes: int
) -> None:
    """Writes one ``model.safetensors``, or shards of at most ``shard_bytes`` with their index."""
    # The library only plans which tensor goes into which file.
    split = split_state_dict_into_shards_factory(
        dict(entries),
        get_storage_size=lambda entry: entry.nbytes,
        get_storage_id=lambda entry: None,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=shard_bytes,
    )

    total = sum(entry.nbytes for entry in entries.values())
    with tqdm(total=total, desc="write weights", unit="B", unit_scale=True, delay=1) as bar:
        for file, names in split.filename_to_tensors.items():
            with (folder / file).open("wb") as stream:
                for nbytes in write_safetensors({name: entries[name] for name in names}, stream):
                    bar.update(nbytes)

    # Readers find the file of a tensor in the index; a single file needs none.
    if split.is_sharded:
        index = {"metadata": {"total_size": total}, "weight_map": split.tensor_to_filename}
        text = json.dumps(index, indent=2) + "\n"
        (folder / "model.safetensors.index.json").write_text(text, "utf-8")


def write_safetensors(entries: Mapping[str, TensorEntry], stream: BinaryIO) -> Iterator[int]:
    """Writes a file in the safetensors format; yields the bytes of each tensor once written.

    The library of that format takes all tensors at once, which can need more memory than there is.
    """
    # Wide dtypes come first, which keeps every number aligned in the file.
    names = sorted(entries, key=lambda name: (-entries[name].header.dtype.itemsize, name))

    # The header is JSON, padded with spaces to a multiple of 8 bytes.
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in names:
        entry = entries[name]
        end = offset + entry.nbytes
        header[name] = {
            "dtype": SAFETENSORS_NAMES[entry.header.dtype],
            "shape": list(entry.header.shape),
            "data_offsets": [offset, end],
        }
        offset = end

    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little") + text)

    # The numbers follow in the order of the header.
    for name in names:
        array = entries[name].get_array()
        if not all_finite(array):
            raise UserError(
                f"tensor {name!r} must be finite to be written; got NaN or infinity. Export the "
                "policy of an earlier checkpoint"
            )
        stream.write(np.ascontiguousarray(array).tobytes())
        yield entries[name].nbytes
