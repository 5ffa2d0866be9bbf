"""Opens the weight files of a model folder and reads them one tensor at a time.

Files are safetensors or, where there are none, ``pytorch_model.bin``, as one file or as shards.
Some reward models have weight files of other names, or a small extra file in the same folder.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from corl_jax.core.checks.json_reader import show_value
from corl_jax.core.errors import UserError
from corl_jax.porting.npy_files import read_npz
from corl_jax.porting.size_limits import MAX_AXES, MAX_NAME_LENGTH, MAX_TENSORS
from corl_jax.porting.torch_legacy_pickle import is_legacy, read_legacy
from corl_jax.porting.torch_pickle import TorchFile

# Names of dtypes in the header of a safetensors file.
SAFETENSORS_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
}


@dataclasses.dataclass(frozen=True)
class TensorHeader:
    """Shape and dtype of a tensor whose numbers are not read yet."""

    shape: tuple[int, ...]
    dtype: np.dtype


Headers = dict[str, TensorHeader]
ReadTensor = Callable[[str], np.ndarray]
"""From the name of a tensor to its numbers."""


@dataclasses.dataclass(frozen=True)
class WeightFiles:
    """The opened weight files of a folder.

    Attributes:
      headers: shape and dtype of every tensor, by name.
      file_of: the file that each tensor is stored in, by name.
      readers: for each file the function that reads one of its tensors.
    """

    headers: Mapping[str, TensorHeader]
    file_of: Mapping[str, pathlib.Path]
    readers: Mapping[pathlib.Path, ReadTensor]

    def read(self, name: str) -> np.ndarray:
        """Reads one tensor. Nothing is cached.

        Raises:
          UserError: the file is damaged, or the tensor contains NaN or infinity.
        """
        file = self.file_of[name]
        array = self.readers[file](name)
        if not all_finite(array):
            raise UserError(
                f"tensor {name!r} in {str(file)!r} holds NaN or infinity; get the file again, "
                "or export the policy from an earlier checkpoint"
            )
        return array

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(int(np.prod(h.shape)) * h.dtype.itemsize for h in self.headers.values())


WEIGHT_PATTERNS = ("*.safetensors", "pytorch_model*.bin")
"""Patterns of weight files; the first pattern that matches any file of a folder is used."""


def open_weights(
    folder: str | pathlib.Path,
    patterns: Sequence[str] = WEIGHT_PATTERNS,
    extra_patterns: Sequence[str] = (),
) -> WeightFiles:
    """Reads names, shapes and dtypes of every tensor in ``folder``.

    Args:
      folder: with the files.
      patterns: of weight files; the files that match the first successful pattern are read.
      extra_patterns: of files that are read in addition, if they exist.

    Raises:
      UserError: no weights, a damaged file, or a tensor that is in two files.
    """
    folder = pathlib.Path(folder)

    # Shards of one format, and small extra files that belong to them.
    matches = (sorted(folder.glob(pattern)) for pattern in patterns)
    files = next((match for match in matches if match), [])
    if not files:
        raise UserError(
            f"there are no {' and no '.join(patterns)} in {str(folder)!r}; "
            "choose a folder with the weights of a model"
        )
    files += [file for pattern in extra_patterns for file in sorted(folder.glob(pattern))]

    # Opening reads headers only.
    headers: Headers = {}
    file_of: dict[str, pathlib.Path] = {}
    readers: dict[pathlib.Path, ReadTensor] = {}
    for file in files:
        if not file.is_file():
            raise UserError(f"{str(file)!r} must be a file; got a folder; get the file again")
        file_headers, readers[file] = OPENERS[file.suffix](file)
        _check_headers(file_headers, file)

        # Which of two tensors of one name is the right one cannot be known.
        duplicates = sorted(file_headers.keys() & headers.keys())
        if duplicates:
            name = duplicates[0]
            raise UserError(
                f"tensor {name!r} is in {str(file_of[name])!r} and in {str(file)!r}; "
                "keep the files of one model"
            )

        headers |= file_headers
        file_of |= dict.fromkeys(file_headers, file)
    return WeightFiles(headers, file_of, readers)


def _check_headers(headers: Headers, file: pathlib.Path) -> None:
    """Refuses names and shapes that no model has, before errors list them."""
    for name, header in headers.items():
        if len(name) > MAX_NAME_LENGTH or not name.isprintable():
            raise UserError(
                f"tensors in {str(file)!r} must have names of at most {MAX_NAME_LENGTH} printable "
                f"characters; got {show_value(name)}; get the file again"
            )
        if len(header.shape) > MAX_AXES:
            raise UserError(
                f"tensor {name!r} in {str(file)!r} must have at most {MAX_AXES} axes; got "
                f"{len(header.shape)}; get the file again"
            )


def _open_safetensors(file: pathlib.Path) -> tuple[Headers, ReadTensor]:
    headers: Headers = {}
    try:
        with safe_open(str(file), framework="numpy") as tensors:
            names = tensors.keys()
            if len(names) > MAX_TENSORS:
                raise UserError(
                    f"{str(file)!r} must have at most {MAX_TENSORS} tensors; got {len(names)}; "
                    "choose a folder with the weights of one model"
                )
            for name in names:
                view = tensors.get_slice(name)
                dtype = view.get_dtype()
                if dtype not in SAFETENSORS_DTYPES:
                    raise UserError(
                        f"tensor {name!r} in {str(file)!r} has dtype {dtype}; it must be one of "
                        f"{', '.join(SAFETENSORS_DTYPES)}; convert the file"
                    )
                headers[name] = TensorHeader(tuple(view.get_shape()), SAFETENSORS_DTYPES[dtype])
    except (SafetensorError, OSError) as error:
        raise UserError(f"{str(file)!r} cannot be read ({error}); get the file again") from None

    def read(name: str) -> np.ndarray:
        # The file is opened for every tensor anew: what an open file maps counts as this process's
        # memory until the file is closed.
        with safe_open(str(file), framework="numpy") as tensors:
            return tensors.get_tensor(name)

    return headers, read


def _open_torch(file: pathlib.Path) -> tuple[Headers, ReadTensor]:
    # Both formats of torch.save have the same suffixes.
    try:
        legacy = is_legacy(file)
    except OSError as error:
        raise UserError(f"{str(file)!r} cannot be read ({error}); get the file again") from None
    if legacy:
        return _in_memory(read_legacy(file))
    archive = TorchFile.open(file)
    headers = {name: TensorHeader(lazy.shape, lazy.dtype) for name, lazy in archive.tensors.items()}
    return headers, archive.read


def _open_npz(file: pathlib.Path) -> tuple[Headers, ReadTensor]:
    return _in_memory(read_npz(file))


def _in_memory(arrays: Mapping[str, np.ndarray]) -> tuple[Headers, ReadTensor]:
    """Headers and reader for the arrays of a small file, which was read in full."""
    headers = {name: TensorHeader(array.shape, array.dtype) for name, array in arrays.items()}
    return headers, arrays.__getitem__


OPENERS: Mapping[str, Callable[[pathlib.Path], tuple[Headers, ReadTensor]]] = {
    ".safetensors": _open_safetensors,
    ".bin": _open_torch,
    ".pth": _open_torch,
    ".pt": _open_torch,
    ".npz": _open_npz,
}
"""The function that opens a file, by the file's suffix."""


def all_finite(array: np.ndarray) -> bool:
    """Whether no number is NaN or infinite."""
    # numpy has no fast test for bfloat16. NaN and infinity are the numbers whose exponent bits are
    # all ones.
    if array.dtype == ml_dtypes.bfloat16:
        exponents = array.view(np.uint16) & 0x7F80
        return not np.any(exponents == 0x7F80)
    return bool(np.isfinite(array).all())
