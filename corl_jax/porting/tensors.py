"""Foreign weight files, opened tensor by tensor. In: a folder; out: names, shapes, dtypes, and arrays when asked.

safetensors (one file or shards) and, where there are none, ``pytorch_model.bin`` (one file or shards). Some nets have
other names, or a small file beside.
"""

from __future__ import annotations

import dataclasses
import pathlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from corl_jax.core.errors import UserError
from corl_jax.porting.torch_legacy_pickle import is_legacy, read_legacy
from corl_jax.porting.torch_pickle import TorchFile

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
}


@dataclasses.dataclass(frozen=True)
class Header:
    """Shape and dtype of a tensor that is not read yet."""

    shape: tuple[int, ...]
    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class Weights:
    """The tensors of a folder.

    Attributes:
      headers: by name.
      home: the file that holds each name.
    """

    headers: Mapping[str, Header]
    home: Mapping[str, pathlib.Path]
    readers: Mapping[pathlib.Path, Callable[[str], np.ndarray]]

    def read(self, name: str) -> np.ndarray:
        """One tensor; nothing of it stays in memory here.

        Raises:
          UserError: the file is damaged, or the tensor holds a number that is none.
        """
        array = self.readers[self.home[name]](name)
        if not finite(array):
            raise UserError(
                f"tensor {name!r} in {str(self.home[name])!r} holds NaN or infinity; get the file again, "
                "or export the policy from an earlier checkpoint"
            )
        return array

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(int(np.prod(h.shape)) * h.dtype.itemsize for h in self.headers.values())


WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
"""Kinds of weight files; the first kind that a folder has is read."""


def open_weights(
    folder: str | pathlib.Path, kinds: Sequence[str] = WEIGHTS, beside: Sequence[str] = ()
) -> Weights:
    """Names, shapes and dtypes of every tensor in ``folder``.

    Args:
      folder: with the files.
      kinds: patterns of weight files; those of the first kind that is there are read.
      beside: patterns of files that are read as well, where they are there.

    Raises:
      UserError: no weights, or a damaged file.
    """
    folder = pathlib.Path(folder)
    files = next((found for kind in kinds if (found := sorted(folder.glob(kind)))), [])
    if not files:
        raise UserError(
            f"there are no {' and no '.join(kinds)} in {str(folder)!r}; expected the weights of a model"
        )
    files += [file for pattern in beside for file in sorted(folder.glob(pattern))]
    headers: dict[str, Header] = {}
    home: dict[str, pathlib.Path] = {}
    readers = {}
    for file in files:
        found, readers[file] = OPENERS[file.suffix](file)
        if twice := sorted(found.keys() & headers.keys()):
            raise UserError(
                f"tensor {twice[0]!r} is in {str(home[twice[0]])!r} and in {str(file)!r}; keep the files of one model"
            )
        headers |= found
        home |= dict.fromkeys(found, file)
    return Weights(headers, home, readers)


def _open_safetensors(file: pathlib.Path) -> tuple[dict[str, Header], Callable[[str], np.ndarray]]:
    try:
        with safe_open(str(file), framework="numpy") as tensors:
            headers = {}
            for name in tensors.keys():  # noqa: SIM118 (not a dictionary)
                part = tensors.get_slice(name)
                if part.get_dtype() not in DTYPES:
                    raise UserError(
                        f"tensor {name!r} in {str(file)!r} is {part.get_dtype()}; expected {', '.join(DTYPES)}"
                    )
                headers[name] = Header(tuple(part.get_shape()), DTYPES[part.get_dtype()])
    except (SafetensorError, OSError) as error:
        raise UserError(f"{str(file)!r} cannot be read ({error}); get the file again") from None

    def read(name: str) -> np.ndarray:
        # Opened anew for every tensor: what an open file maps counts as this process's memory until it is closed.
        with safe_open(str(file), framework="numpy") as tensors:
            return tensors.get_tensor(name)

    return headers, read


def _open_torch(file: pathlib.Path) -> tuple[dict[str, Header], Callable[[str], np.ndarray]]:
    if is_legacy(file):
        return _held(read_legacy(file))
    archive = TorchFile.open(file)
    return {
        name: Header(lazy.shape, lazy.dtype) for name, lazy in archive.tensors.items()
    }, archive.read


def _open_npz(file: pathlib.Path) -> tuple[dict[str, Header], Callable[[str], np.ndarray]]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return _held(dict(arrays))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{str(file)!r} cannot be read ({error}); expected arrays as np.savez writes them"
        ) from None


def _held(
    arrays: Mapping[str, np.ndarray],
) -> tuple[dict[str, Header], Callable[[str], np.ndarray]]:
    """Arrays of a small file, which are in memory already."""
    return {
        name: Header(array.shape, array.dtype) for name, array in arrays.items()
    }, arrays.__getitem__


OPENERS: Mapping[str, Callable[[pathlib.Path], Any]] = {
    ".safetensors": _open_safetensors,
    ".bin": _open_torch,
    ".pth": _open_torch,
    ".npz": _open_npz,
}
"""How a file is opened, by the end of its name."""


def finite(array: np.ndarray) -> bool:
    """Whether no number is NaN or infinite."""
    if (
        array.dtype == ml_dtypes.bfloat16
    ):  # its exponent is all ones; numpy has no fast test for this type
        return not np.any((array.view(np.uint16) & 0x7F80) == 0x7F80)
    return bool(np.isfinite(array).all())
