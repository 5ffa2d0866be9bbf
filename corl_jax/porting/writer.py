"""Parameters to a folder of either layout. In: ``Params``, sizes, the files to carry over; out: a model folder.

Tensors are written one by one, so host memory stays near the largest.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import jax
import ml_dtypes
import numpy as np
from huggingface_hub import split_state_dict_into_shards_factory
from tqdm import tqdm

from corl_jax.core.errors import UserError
from corl_jax.core.types import Params
from corl_jax.data.text_tokenizer import TextTokenizer
from corl_jax.models.janus.config import JanusConfig
from corl_jax.porting.janus.folder import Folder, foreign_plan
from corl_jax.porting.janus.layouts import FORMATS, Format
from corl_jax.porting.janus.sidecar_files import write_companions
from corl_jax.porting.rules import Piece, Tensor
from corl_jax.porting.tensors import DTYPES, Header

NAMES = {dtype: name for name, dtype in DTYPES.items()}
EXPORT_DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
SHARD_BYTES = 5 * 10**9


@dataclasses.dataclass(frozen=True)
class Entry:
    """A tensor to write: what it will look like, and how to get it."""

    header: Header
    get: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Size in the file."""
        return math.prod(self.header.shape) * self.header.dtype.itemsize


def save_folder(
    params: Params,
    cfg: JanusConfig,
    companions: str | pathlib.Path,
    out: str | pathlib.Path,
    *,
    layout: Format = FORMATS["transformers"],
    dtype: str = "float32",
    unused: Mapping[str, Entry] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes configuration, weights, tokenizer and processor files to ``out``, whole or not at all.

    The folder is written aside and renamed at the end.

    Args:
      params: every parameter of the model.
      cfg: sizes.
      companions: folder of the tokenizer's and processor's files to carry over.
      out: new folder, or an empty one.
      layout: one of ``formats.FORMATS``.
      dtype: one of ``EXPORT_DTYPES``.
      unused: tensors of the layout that are ours only to carry over.
      shard_bytes: a file of weights becomes no larger.

    Raises:
      UserError: ``out`` exists and is not empty, the disk is too small, or a file cannot be written.
    """
    out = pathlib.Path(out)
    check_new(out)
    if dtype not in EXPORT_DTYPES:
        raise UserError(f"unknown dtype {dtype!r}; expected {' or '.join(EXPORT_DTYPES)}")
    tokenizer = TextTokenizer.load(companions)
    entries = foreign_entries(params, cfg, layout, EXPORT_DTYPES[dtype]) | dict(unused or {})
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _check_space(out.parent, sum(entry.nbytes for entry in entries.values()))
        aside = pathlib.Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise UserError(
            f"{str(out)!r} cannot be written ({error}); choose another folder"
        ) from None
    try:
        write_companions(cfg, tokenizer, pathlib.Path(companions), aside, layout, dtype)
        write_weights(entries, aside, shard_bytes)
        aside.chmod(0o755)
        for file in aside.iterdir():
            file.chmod(0o644)
        if out.exists():
            out.rmdir()
        aside.rename(out)
    except OSError as error:
        shutil.rmtree(aside)
        raise UserError(
            f"{str(out)!r} could not be written ({error}); nothing of it was left behind"
        ) from None
    except BaseException:
        shutil.rmtree(aside)
        raise


def check_new(out: pathlib.Path) -> None:
    """Refuses a folder that holds something already.

    Raises:
      UserError: ``out`` is a file, or a folder that is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            f"{str(out)!r} exists and is not empty; choose another folder or delete it first"
        )


def foreign_entries(
    params: Params, cfg: JanusConfig, layout: Format, dtype: np.dtype
) -> dict[str, Entry]:
    """All tensors of the model under their foreign names, made when asked for."""

    def entry(tensor: Tensor) -> Entry:
        def get() -> np.ndarray:
            return tensor.outward(functools.partial(_part, params)).astype(dtype)

        return Entry(Header(tensor.shape, dtype), get)

    return {name: entry(tensor) for name, tensor in foreign_plan(cfg, layout).items()}


def carried(source: Folder | None, layout: Format) -> dict[str, Entry]:
    """Tensors of ``source`` that no computation reads, to be written again as they are stored.

    Args:
      source: where the policy came from, or None for a work directory, which has none.
      layout: to write; another layout than the source's has no place for them.
    """
    if source is None or source.format is not layout:
        return {}
    weights = source.reader.weights
    return {
        name: Entry(weights.headers[name], functools.partial(weights.read, name))
        for name in source.reader.unused()
    }


def _part(params: Params, piece: Piece) -> np.ndarray:
    whole = params[piece.path]
    if piece.layer is None:
        return np.asarray(whole)
    if isinstance(
        whole, np.ndarray
    ):  # on the host, maybe in a file: no need to move all layers for one
        return whole[piece.layer]
    return np.asarray(jax.lax.dynamic_index_in_dim(whole, piece.layer, keepdims=False))


def _check_space(folder: pathlib.Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"the weights take {needed / 1e9:.1f} GB and {str(folder)!r} has {free / 1e9:.1f} GB free; "
            "make room or choose another --out"
        )


def write_weights(entries: Mapping[str, Entry], folder: pathlib.Path, shard_bytes: int) -> None:
    """Writes one ``model.safetensors``, or shards of at most ``shard_bytes`` with their index."""
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
                for written in _stream({name: entries[name] for name in names}, stream):
                    bar.update(written)
    if split.is_sharded:
        index = {"metadata": {"total_size": total}, "weight_map": split.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(
            json.dumps(index, indent=2) + "\n", "utf-8"
        )


def _stream(entries: Mapping[str, Entry], stream: BinaryIO) -> Iterator[int]:
    """Writes the safetensors format (its library wants all tensors at once); yields bytes as they are written."""
    ordered = sorted(
        entries, key=lambda name: (-entries[name].header.dtype.itemsize, name)
    )  # keeps numbers aligned
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name in ordered:
        entry = entries[name]
        shape, end = list(entry.header.shape), at + entry.nbytes
        header[name] = {
            "dtype": NAMES[entry.header.dtype],
            "shape": shape,
            "data_offsets": [at, end],
        }
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little") + text)
    for name in ordered:
        stream.write(np.ascontiguousarray(entries[name].get()).tobytes())
        yield entries[name].nbytes
