"""Reads weights that torch wrote before version 1.6, without torch, such as LPIPS's ``vgg.pth``.

Compatible with the older format of ``torch.save``: five pickles (a magic number, a version, facts
about the machine, the tensors, the keys of their storages), then for each key the count of its
numbers and the numbers. Such files are small, so all arrays are read at once.
"""

from __future__ import annotations

import io
import pathlib
import pickle
import struct
from typing import Any

import numpy as np

from corl_jax.core.errors import UserError
from corl_jax.porting.torch_pickle import (
    ALLOWED_GLOBALS,
    EXPECTED_CONTENT,
    STORAGE_DTYPES,
    LazyTensor,
)

MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
"""The first pickle of such a file."""
# Tensors that were saved from a GPU have the same bytes.
GPU_STORAGES = {("torch.cuda", name): name for name in STORAGE_DTYPES}


class _Unpickler(pickle.Unpickler):
    """Imports nothing: what a pickle refers to is looked up in a table or refused."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = ALLOWED_GLOBALS | GPU_STORAGES
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(
                f"it imports {module}.{name}, which is not part of a tensor"
            )
        return allowed[module, name]

    def persistent_load(self, pid: object) -> tuple[str, str, int]:
        # The last entry is set for a storage that is a view of another, which is refused.
        match pid:
            case ("storage", str(kind), str(key), str(_), int(size), None) if (
                kind in STORAGE_DTYPES
            ):
                return kind, key, size
        raise pickle.UnpicklingError(f"it refers to {pid!r}, which is not the storage of a tensor")


def is_legacy(file: pathlib.Path) -> bool:
    """Whether ``file`` starts like a file of the older format."""
    with file.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def read_legacy(file: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads all tensors of ``file`` by name.

    Raises:
      UserError: the file is damaged, or has anything but tensors by name in it.
    """
    try:
        stream = io.BytesIO(file.read_bytes())
        # Magic number and version are not needed.
        _, _, machine, tensors, keys = (_Unpickler(stream).load() for _ in range(5))
        if machine["little_endian"] is not True or not isinstance(tensors, dict):
            raise ValueError("it holds something else")

        # A pickle of allowed globals can still hold other things than tensors.
        for tensor in tensors.values():
            if not isinstance(tensor, LazyTensor) or not tensor.fits_storage:
                raise ValueError("an entry is not a complete tensor")

        # Storages follow in the order of ``keys``; several tensors may be views of one storage.
        tensor_of_key = {tensor.key: tensor for tensor in tensors.values()}
        storages = {key: _read_storage(stream, tensor_of_key[key]) for key in keys}
        return {name: _view(storages[tensor.key], tensor) for name, tensor in tensors.items()}
    except Exception as error:  # a hostile pickle can raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{str(file)!r} is refused ({reason}); {EXPECTED_CONTENT}") from None


def _read_storage(stream: io.BytesIO, tensor: LazyTensor) -> np.ndarray:
    """The next storage of the file, of which ``tensor`` is a view."""
    # A count of 8 bytes, then that many numbers.
    (count,) = struct.unpack("<q", stream.read(8))
    numbers = np.frombuffer(stream.read(count * tensor.dtype.itemsize), tensor.dtype)
    if count != tensor.size or numbers.size != tensor.size:
        raise ValueError(f"it has {numbers.size} of {tensor.size} numbers of a storage")
    return numbers


def _view(numbers: np.ndarray, tensor: LazyTensor) -> np.ndarray:
    # torch counts strides in numbers, numpy in bytes.
    strides = tuple(step * tensor.dtype.itemsize for step in tensor.stride)
    return np.lib.stride_tricks.as_strided(
        numbers[tensor.offset :], tensor.shape, strides, writeable=False
    )
