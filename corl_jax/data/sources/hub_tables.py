"""Rows of a data set of the library ``datasets``, whose pictures stay undecoded."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from corl_jax.data.sources.columns import top_columns
from corl_jax.data.sources.pictures import StoredPicture
from corl_jax.data.sources.table import Row

if TYPE_CHECKING:
    import datasets

ROWS_PER_READ = 1000
"""Rows whose texts are read at a time."""


@dataclasses.dataclass(frozen=True)
class HubTable:
    """Rows of a ``datasets.Dataset``.

    Attributes:
      data: without decoders; pictures are objects with ``bytes`` and ``path``.
      label: what errors call it.
      split: which ids of rows begin with.
      folder: that paths of pictures are relative to.
      files: none, since they may be as large as all pictures.
    """

    data: datasets.Dataset
    label: str
    split: str
    folder: pathlib.Path
    files: tuple[pathlib.Path, ...] = ()

    @property
    def columns(self) -> Sequence[str]:
        return self.data.column_names

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """All rows. Of pictures in them only the sizes are read."""
        names = sorted(top_columns(columns, self.columns))
        view = self.data.select_columns(names).with_format("arrow")
        number = 0
        for block in view.iter(ROWS_PER_READ):
            read = [self._read_column(block[name], name, number) for name in names]
            for values in zip(*read, strict=True):
                number += 1
                location = f"row {number} of {self.label}"
                yield Row(location, f"{self.split}-{number}", dict(zip(names, values, strict=True)))

    def _read_column(self, column: Any, name: str, start: int) -> Iterator[object]:
        """The values of a column of a block that begins at row ``start``."""
        import pyarrow.compute as pc

        view = self.data.select_columns([name]).with_format("arrow")

        def stored(row: int, size: int, content: Callable[[Any], bytes]) -> StoredPicture:
            return StoredPicture(
                lambda: content(view[start + row : start + row + 1][name][0].as_py()), size
            )

        # The offsets of bytes are enough to know their lengths.
        if _is_bytes(column.type):
            for row, size in enumerate(pc.binary_length(column).to_pylist()):
                yield None if size is None else stored(row, size, lambda value: value)
        elif _has_bytes(column.type):
            for row, (size, path) in enumerate(_sizes_and_paths(column)):
                if size is None:
                    yield None if path is None else {"bytes": None, "path": path}
                else:
                    yield stored(row, size, lambda value: value["bytes"])
        elif _is_list(column.type) and _has_bytes(column.type.value_type):
            pictures = iter(_sizes_and_paths(pc.list_flatten(column)))
            for row, length in enumerate(pc.list_value_length(column).to_pylist()):
                yield [
                    {"bytes": None, "path": path}
                    if size is None
                    else stored(row, size, functools.partial(_bytes_at, i))
                    for i, (size, path) in zip(range(length or 0), pictures, strict=False)
                ]
        else:
            names = self._class_names(name)
            for value in column.to_pylist():
                yield names[value] if names and value is not None and value >= 0 else value

    def _class_names(self, name: str) -> Sequence[str]:
        """The names of the classes that the numbers of a column stand for; () for other columns."""
        import datasets

        feature = self.data.features[name]
        return feature.names if isinstance(feature, datasets.ClassLabel) else ()


def _is_bytes(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _has_bytes(kind: Any) -> bool:
    """Whether a type of Arrow is that of a picture."""
    import pyarrow as pa

    return pa.types.is_struct(kind) and {"bytes", "path"} <= {field.name for field in kind}


def _bytes_at(position: int, value: Any) -> bytes:
    return value[position]["bytes"]


def _sizes_and_paths(pictures: Any) -> list[tuple[int | None, str | None]]:
    """Length of the bytes and path of each picture, of which either may be absent."""
    import pyarrow.compute as pc

    sizes = pc.binary_length(pc.struct_field(pictures, "bytes")).to_pylist()
    return list(zip(sizes, pc.struct_field(pictures, "path").to_pylist(), strict=True))
