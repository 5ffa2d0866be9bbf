"""Reads ``pytorch_model.bin`` without torch.

Compatible with the zip format of ``torch.save`` (torch 1.6 and later): ``NAME/data.pkl`` describes
the tensors, and each ``NAME/data/KEY`` holds the bytes of one storage.
"""

from __future__ import annotations

import dataclasses
import io
import pathlib
import pickle
import zipfile

import numpy as np

from corl_jax.core.checks.json_reader import show_value
from corl_jax.core.errors import UserError, describe_error
from corl_jax.porting.size_limits import MAX_PICKLE_BYTES
from corl_jax.porting.tensor_unpickler import EXPECTED_CONTENT, LazyTensor, TensorUnpickler


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
                size = archive.getinfo(pickles[0]).file_size
                if size > MAX_PICKLE_BYTES:
                    raise pickle.UnpicklingError(
                        f"its data.pkl has {size} bytes; at most {MAX_PICKLE_BYTES} are allowed"
                    )
                tensors = TensorUnpickler(io.BytesIO(archive.read(pickles[0]))).load()

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
        # A checkpoint of a training run has its tensors one level below.
        if isinstance(nested := tensors.get("state_dict"), dict):
            tensors = nested
        for name, tensor in tensors.items():
            if not isinstance(tensor, LazyTensor) or not tensor.fits_storage:
                raise UserError(
                    f"{str(path)!r} is refused (its entry {show_value(name)} is not a complete tensor); "
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
                entry = archive.getinfo(f"{self.root}data/{tensor.key}")
                # torch compresses nothing; what is compressed could be of any size.
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise ValueError("its numbers are compressed")
                storage = archive.read(entry)
                numbers = np.frombuffer(storage, tensor.dtype)
        except Exception as error:  # a hostile archive can raise anything
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
