"""Reads ``pytorch_model.bin`` without torch, by an unpickler that accepts tensors and nothing else.

Compatible with the zip format of ``torch.save`` (torch 1.6 and later): ``NAME/data.pkl`` describes
the tensors, and each ``NAME/data/KEY`` holds the bytes of one storage.
"""

from __future__ import annotations

import collections
import dataclasses
import io
import pathlib
import pickle
import zipfile
from collections.abc import Iterable
from typing import Any

import ml_dtypes
import numpy as np

from corl_jax.core.errors import UserError, describe_error

# The classes of torch that a pickle names for storages.
STORAGE_DTYPES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """A tensor whose numbers are not read yet.

    Attributes:
      key: name of its storage in the archive.
      dtype: of its numbers.
      size: count of numbers in the storage.
      offset: index in the storage of the tensor's first number.
      shape: of the tensor.
      stride: for each axis, the distance between neighbors in the storage, in numbers.
    """

    key: str
    dtype: np.dtype
    size: int
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def fits_storage(self) -> bool:
        """Whether every element is inside the storage, so that a view of it is safe."""
        # The values come from the file, so even their types are checked.
        numbers = (self.size, self.offset, *self.shape, *self.stride)
        if not all(type(n) is int and n >= 0 for n in numbers):
            return False
        if len(self.shape) != len(self.stride):
            return False

        # The index of the last element; an empty tensor has none.
        extents = [(n - 1) * step for n, step in zip(self.shape, self.stride, strict=True)]
        return 0 in self.shape or self.offset + sum(extents) < self.size


def _rebuild_tensor(
    storage: tuple[str, str, int],
    offset: int,
    shape: Iterable[int],
    stride: Iterable[int],
    *_: object,
) -> LazyTensor:
    # The other arguments of torch's function concern gradients and hooks.
    kind, key, size = storage
    return LazyTensor(key, STORAGE_DTYPES[kind], size, offset, tuple(shape), tuple(stride))


def _rebuild_parameter(tensor: LazyTensor, *_: object) -> LazyTensor:
    return tensor


EXPECTED_CONTENT = "expected the tensors of a model by name and nothing else"

ALLOWED_GLOBALS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    **{("torch", name): name for name in STORAGE_DTYPES},
}
"""Everything that a pickle of tensors imports, by (module, name)."""


class _Unpickler(pickle.Unpickler):
    """Imports nothing: what a pickle refers to is looked up in ``ALLOWED_GLOBALS`` or refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED_GLOBALS:
            raise pickle.UnpicklingError(
                f"it imports {module}.{name}, which is not part of a tensor"
            )
        return ALLOWED_GLOBALS[module, name]

    def persistent_load(self, pid: object) -> tuple[str, str, int]:
        # torch's pickles refer to a storage by ("storage", type, key, device, count of numbers).
        match pid:
            case ("storage", str(kind), str(key), str(_), int(size)) if kind in STORAGE_DTYPES:
                return kind, key, size
        raise pickle.UnpicklingError(f"it refers to {pid!r}, which is not the storage of a tensor")


@dataclasses.dataclass(frozen=True)
class TorchFile:
    """An opened archive.

    Attributes:
      path: of the file.
      root: folder inside the archive.
      tensors: by name.
    """

    path: pathlib.Path
    root: str
    tensors: dict[str, LazyTensor]

    @classmethod
    def open(cls, path: pathlib.Path) -> TorchFile:
        """Reads the description of the tensors and none of their numbers.

        Raises:
          UserError: the file is not such an archive, is damaged, or has anything but tensors by
            name in it.
        """
        # The pickle is small: it describes the tensors, whose numbers are separate files.
        try:
            with zipfile.ZipFile(path) as archive:
                pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
                if len(pickles) != 1:
                    raise pickle.UnpicklingError("it has no data.pkl")
                root = pickles[0].removesuffix("data.pkl")
                tensors = _Unpickler(io.BytesIO(archive.read(pickles[0]))).load()

        # Not an archive at all: this happens to files of interrupted downloads.
        except zipfile.BadZipFile as error:
            raise UserError(
                f"{str(path)!r} is not an archive of torch.save ({error}); get the file again, "
                "or use the safetensors of the same model"
            ) from None
        except Exception as error:  # a hostile pickle can raise anything
            raise UserError(
                f"{str(path)!r} is refused ({describe_error(error)}); {EXPECTED_CONTENT}"
            ) from None

        # A pickle of allowed globals can still hold other things than tensors.
        if not isinstance(tensors, dict):
            raise UserError(
                f"{str(path)!r} is refused (it holds a {type(tensors).__name__}); "
                f"{EXPECTED_CONTENT}"
            )
        for name, tensor in tensors.items():
            if not isinstance(tensor, LazyTensor) or not tensor.fits_storage:
                raise UserError(
                    f"{str(path)!r} is refused (its entry {name!r} is not a complete tensor); "
                    f"{EXPECTED_CONTENT}"
                )
        return cls(path, root, dict(tensors))

    def read(self, name: str) -> np.ndarray:
        """Reads one tensor.

        Raises:
          UserError: its bytes are missing or damaged.
        """
        tensor = self.tensors[name]
        label = f"tensor {name!r} in {str(self.path)!r}"

        try:
            with zipfile.ZipFile(self.path) as archive:
                storage = archive.read(f"{self.root}data/{tensor.key}")
                numbers = np.frombuffer(storage, tensor.dtype)
        except (zipfile.BadZipFile, KeyError, OSError, ValueError, EOFError) as error:
            raise UserError(
                f"{label} cannot be read ({describe_error(error)}); get the file again"
            ) from None
        if numbers.size < tensor.size:
            raise UserError(
                f"{label} has {numbers.size} of its {tensor.size} numbers; get the file again"
            )

        # The tensor is a view of its storage, which other tensors may share.
        # torch counts strides in numbers, numpy in bytes.
        strides = tuple(step * tensor.dtype.itemsize for step in tensor.stride)
        return np.lib.stride_tricks.as_strided(
            numbers[tensor.offset :], tensor.shape, strides, writeable=False
        )
