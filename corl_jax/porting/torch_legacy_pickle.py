"""Weights that torch wrote before version 1.6, without torch, as small files such as LPIPS's ``vgg.pth`` still are.

In: a file; out: its arrays, all in memory. Compatible with the older format of ``torch.save``: five pickles (a mark, a
version, the machine, the tensors, the keys of their storages), then for each key its length and its numbers.
"""

from __future__ import annotations

import io
import pathlib
import pickle
import struct
from typing import Any

import numpy as np

from corl_jax.core.errors import UserError
from corl_jax.porting.torch_pickle import ALLOWED, EXPECTED, STORAGES, LazyTensor

MARK = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
"""The first pickle of such a file."""
ON_GPU = {("torch.cuda", name): name for name in STORAGES}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = ALLOWED | ON_GPU
        if (module, name) not in known:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which is no part of a tensor"
            )
        return known[module, name]

    def persistent_load(self, pid: Any) -> tuple[str, str, int]:
        match pid:
            case ("storage", str(kind), str(key), str(_), int(size), None) if kind in STORAGES:
                return kind, key, size
        raise pickle.UnpicklingError(f"it refers to {pid!r}, which is no storage of a tensor")


def is_legacy(file: pathlib.Path) -> bool:
    """Whether ``file`` starts like one of the older format."""
    with file.open("rb") as data:
        return data.read(len(MARK)) == MARK


def read_legacy(file: pathlib.Path) -> dict[str, np.ndarray]:
    """All tensors of ``file`` by name.

    Raises:
      UserError: damaged, or holding anything but tensors by name.
    """
    try:
        data = io.BytesIO(file.read_bytes())
        _, _, machine, tensors, keys = (_Unpickler(data).load() for _ in range(5))
        if machine["little_endian"] is not True or not isinstance(tensors, dict):
            raise ValueError("it holds something else")
        if not all(isinstance(tensor, LazyTensor) and tensor.inside for tensor in tensors.values()):
            raise ValueError("an entry is no whole tensor")
        sizes = {tensor.key: tensor for tensor in tensors.values()}
        storages = {key: _numbers(data, sizes[key]) for key in keys}
        return {name: _tensor(storages[tensor.key], tensor) for name, tensor in tensors.items()}
    except Exception as error:  # a hostile pickle can provoke any
        told = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{str(file)!r} is refused ({told}); {EXPECTED}") from None


def _numbers(data: io.BytesIO, tensor: LazyTensor) -> np.ndarray:
    """The next storage of the file, which is that of ``tensor``."""
    (count,) = struct.unpack("<q", data.read(8))
    numbers = np.frombuffer(data.read(count * tensor.dtype.itemsize), tensor.dtype)
    if count != tensor.size or numbers.size != tensor.size:
        raise ValueError(f"it has {numbers.size} of {tensor.size} numbers of a storage")
    return numbers


def _tensor(numbers: np.ndarray, tensor: LazyTensor) -> np.ndarray:
    steps = tuple(step * tensor.dtype.itemsize for step in tensor.stride)
    return np.lib.stride_tricks.as_strided(
        numbers[tensor.offset :], tensor.shape, steps, writeable=False
    )
