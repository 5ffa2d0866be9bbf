"""Reads weights that torch wrote before version 1.6, without torch, such as LPIPS's ``vgg.pth``.

Compatible with the older format of ``torch.save``: five pickles (a magic number, a version, facts
about the machine, the tensors, the keys of their storages), then for each key the count of its
numbers and the numbers. Such files are small, so all arrays are read at once.
"""

from __future__ import annotations

import io
import pathlib
import struct
from typing import BinaryIO

import numpy as np

from corl_jax.core.errors import UserError, describe_error
from corl_jax.porting.size_limits import MAX_PICKLE_BYTES
from corl_jax.porting.tensor_unpickler import EXPECTED_CONTENT, LazyTensor, TensorUnpickler

MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
"""The first pickle of such a file."""


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
        with file.open("rb") as stream:
            # Magic number and version are not needed.
            description = io.BytesIO(stream.read(MAX_PICKLE_BYTES))
            _, _, machine, tensors, keys = (TensorUnpickler(description).load() for _ in range(5))
            if machine["little_endian"] is not True or not isinstance(tensors, dict):
                raise ValueError("it holds something else")

            # A pickle of allowed globals can still hold other things than tensors.
            for tensor in tensors.values():
                if not isinstance(tensor, LazyTensor) or not tensor.fits_storage:
                    raise ValueError("an entry is not a complete tensor")

            # Storages follow in the order of ``keys``; several tensors may be views of one.
            stream.seek(description.tell())
            tensor_of_key = {tensor.key: tensor for tensor in tensors.values()}
            bytes_left = file.stat().st_size - description.tell()
            storages = {}
            for key in keys:
                storages[key] = _read_storage(stream, tensor_of_key[key], bytes_left)
                bytes_left -= 8 + storages[key].nbytes
            return {name: _view(storages[tensor.key], tensor) for name, tensor in tensors.items()}
    except Exception as error:  # a hostile pickle can raise anything
        raise UserError(
            f"{str(file)!r} is refused ({describe_error(error)}); {EXPECTED_CONTENT}"
        ) from None


def _read_storage(stream: BinaryIO, tensor: LazyTensor, bytes_left: int) -> np.ndarray:
    """The next storage of the file, of which ``tensor`` is a view."""
    # A count of 8 bytes, then that many numbers. Nothing is read that the file does not have.
    (count,) = struct.unpack("<q", stream.read(8))
    available = min(count, (bytes_left - 8) // tensor.dtype.itemsize)
    if count != tensor.size or available != tensor.size:
        raise ValueError(f"it has {available} of {tensor.size} numbers of a storage")
    return np.frombuffer(stream.read(count * tensor.dtype.itemsize), tensor.dtype)


def _view(numbers: np.ndarray, tensor: LazyTensor) -> np.ndarray:
    # torch counts strides in numbers, numpy in bytes.
    strides = tuple(step * tensor.dtype.itemsize for step in tensor.stride)
    return np.lib.stride_tricks.as_strided(
        numbers[tensor.offset :], tensor.shape, strides, writeable=False
    )
