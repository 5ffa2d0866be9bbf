"""``pytorch_model.bin`` without torch: an unpickler that knows tensors and refuses everything else.

Compatible with the zip format of ``torch.save`` (torch 1.6 and later): ``NAME/data.pkl`` describes the tensors, and
each ``NAME/data/KEY`` holds the bytes of one storage.
"""

from __future__ import annotations

import collections
import dataclasses
import io
import pathlib
import pickle
import zipfile
from typing import Any

import ml_dtypes
import numpy as np

from corl_jax.core.errors import UserError, describe_error

STORAGES = {
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
    """A tensor that is not read yet.

    Attributes:
      key: of its storage in the archive.
      dtype: of its numbers.
      size: numbers in the storage.
      offset: number of the storage at which the tensor starts.
      shape: of the tensor.
      stride: numbers from one element of an axis to the next.
    """

    key: str
    dtype: np.dtype
    size: int
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def inside(self) -> bool:
        """Whether all of it lies in its storage."""
        numbers = (self.size, self.offset, *self.shape, *self.stride)
        if not all(type(n) is int and n >= 0 for n in numbers) or len(self.shape) != len(
            self.stride
        ):
            return False
        last = self.offset + sum(
            (n - 1) * step for n, step in zip(self.shape, self.stride, strict=True)
        )
        return 0 in self.shape or last < self.size


def _rebuild_tensor(
    storage: tuple[str, str, int], offset: int, shape: Any, stride: Any, *_: Any
) -> LazyTensor:
    kind, key, size = storage
    return LazyTensor(key, STORAGES[kind], size, offset, tuple(shape), tuple(stride))


def _rebuild_parameter(tensor: LazyTensor, *_: Any) -> LazyTensor:
    return tensor


EXPECTED = "expected the tensors of a model by name and nothing else"

ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    **{("torch", name): name for name in STORAGES},
}
"""All that a pickle of tensors calls for."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which is no part of a tensor"
            )
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> tuple[str, str, int]:
        match pid:
            case ("storage", str(kind), str(key), str(_), int(size)) if kind in STORAGES:
                return kind, key, size
        raise pickle.UnpicklingError(f"it refers to {pid!r}, which is no storage of a tensor")


@dataclasses.dataclass(frozen=True)
class TorchFile:
    """An opened archive.

    Attributes:
      path: the file.
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
          UserError: not such an archive, damaged, or holding anything but tensors by name.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                described = [name for name in archive.namelist() if name.endswith("/data.pkl")]
                if len(described) != 1:
                    raise pickle.UnpicklingError("it has no data.pkl")
                root = described[0].removesuffix("data.pkl")
                tensors = _Unpickler(io.BytesIO(archive.read(described[0]))).load()
        except zipfile.BadZipFile as error:
            raise UserError(
                f"{str(path)!r} is no archive of torch.save ({error}); get the file again, "
                "or use the safetensors of the same model"
            ) from None
        except Exception as error:  # a hostile pickle can provoke any
            raise UserError(
                f"{str(path)!r} is refused ({describe_error(error)}); {EXPECTED}"
            ) from None
        if not isinstance(tensors, dict):
            raise UserError(
                f"{str(path)!r} is refused (it holds a {type(tensors).__name__}); {EXPECTED}"
            )
        for name, tensor in tensors.items():
            if not isinstance(tensor, LazyTensor) or not tensor.inside:
                raise UserError(
                    f"{str(path)!r} is refused (its entry {name!r} is no whole tensor); {EXPECTED}"
                )
        return cls(path, root, dict(tensors))

    def read(self, name: str) -> np.ndarray:
        """One tensor.

        Raises:
          UserError: its bytes are missing or damaged.
        """
        tensor, where = self.tensors[name], f"tensor {name!r} in {str(self.path)!r}"
        try:
            with zipfile.ZipFile(self.path) as archive:
                numbers = np.frombuffer(archive.read(f"{self.root}data/{tensor.key}"), tensor.dtype)
        except (zipfile.BadZipFile, KeyError, OSError, ValueError, EOFError) as error:
            raise UserError(
                f"{where} cannot be read ({describe_error(error)}); get the file again"
            ) from None
        if numbers.size < tensor.size:
            raise UserError(
                f"{where} has {numbers.size} of its {tensor.size} numbers; get the file again"
            )
        steps = tuple(step * tensor.dtype.itemsize for step in tensor.stride)
        return np.lib.stride_tricks.as_strided(
            numbers[tensor.offset :], tensor.shape, steps, writeable=False
        )
