"""Reads arrays that ``numpy.save`` and ``numpy.savez`` wrote; sizes are checked before any array."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path

import numpy as np

from corl_jax.core.errors import UserError, describe_error

MAX_BYTES = 2**28
"""Largest file, and largest array in an archive; those that are read here have some kilobytes."""

HEAD_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npy(path: Path, label: str) -> np.ndarray:
    """Reads a ``.npy`` file, which errors call ``label``.

    Raises:
      UserError: it does not exist, is damaged, too large, or holds objects, which could run code.
    """
    if not path.is_file():
        raise UserError(f"{label} {str(path)!r} does not exist; check the path")
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{label} {str(path)!r} must have at most {MAX_BYTES} bytes; got more")
    try:
        return _parse_npy(path.read_bytes())
    except Exception as error:  # a hostile head can raise anything
        raise UserError(
            f"{label} {str(path)!r} cannot be read as a .npy file ({describe_error(error)}); "
            "write it with numpy.save"
        ) from None


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Reads all arrays of a ``.npz`` file by name.

    Raises:
      UserError: it is damaged, too large, or holds objects, which could run code.
    """
    try:
        arrays = {}
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            # Sizes before they are decompressed; a bound for each would allow any number of them.
            total = sum(entry.file_size for entry in entries)
            if total > MAX_BYTES:
                raise ValueError(f"it has {total} bytes of arrays; at most {MAX_BYTES} are allowed")
            for entry in entries:
                arrays[entry.filename.removesuffix(".npy")] = _parse_npy(archive.read(entry))
        return arrays
    except Exception as error:  # a hostile archive can raise anything
        raise UserError(
            f"{str(path)!r} cannot be read ({describe_error(error)}); expected arrays as np.savez "
            "writes them"
        ) from None


def _parse_npy(content: bytes) -> np.ndarray:
    """The array in the bytes of a ``.npy`` file.

    Raises:
      ValueError: it has another number of bytes than its head says, or is no such file.
    """
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version not in HEAD_READERS:
        raise ValueError(f"it has version {version} of the format")
    shape, _, dtype = HEAD_READERS[version](stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")

    # NumPy makes the array first and reads its numbers then.
    size, needed = len(content) - stream.tell(), math.prod(shape) * dtype.itemsize
    if size != needed or min(shape, default=0) < 0:
        raise ValueError(f"it has {size} bytes of numbers; its head says {needed}")
    return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
