"""Data sets of Hugging Face: by hub id, as folders of ``save_to_disk``, as Parquet and Arrow files.

The library ``datasets`` reads them (``pip install 'corl_jax[data]'``). Pictures are not decoded, so
that their bytes are those of the files that someone once uploaded.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import types
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from corl_jax.core.errors import UserError, describe_error
from corl_jax.data.sources.columns import top_columns
from corl_jax.data.sources.table import Row, StoredPicture

if TYPE_CHECKING:
    import datasets

T = TypeVar("T")

FORMATS = {".parquet": "parquet", ".arrow": "arrow"}
"""Suffix of a file to the name of its reader in ``datasets``."""
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


def open_files(
    files: Sequence[pathlib.Path], label: str, split: str, folder: pathlib.Path, cache_dir: str
) -> HubTable:
    """Parquet or Arrow files. ``datasets`` keeps a copy of them in its cache, for random access."""
    datasets, reader = _library(), FORMATS[files[0].suffix]
    data = _call(
        lambda: datasets.load_dataset(
            reader,
            data_files={"train": [str(path) for path in files]},
            split="train",
            cache_dir=cache_dir or None,
        ),
        f"{label} cannot be read as {reader.title()}",
        "check or replace the file",
    )
    return HubTable(_undecoded(data), label, split, folder)


def open_saved(folder: pathlib.Path, label: str, split: str) -> HubTable:
    """One data set that ``datasets.save_to_disk`` has written."""
    datasets = _library()
    data = _call(
        lambda: datasets.load_from_disk(str(folder)),
        f"{label} cannot be read as a folder of datasets.save_to_disk",
        "write it again",
    )
    return HubTable(_undecoded(data), label, split, folder)


def open_hub(name: str, label: str, splits: Sequence[str], cache_dir: str) -> HubTable:
    """A data set of the hub, ``OWNER/NAME[/CONFIG][@REVISION]``; the first of ``splits`` it has.

    Raises:
      UserError: it cannot be downloaded, or has none of the splits.
    """
    datasets = _library()
    path, _, revision = name.partition("@")
    parts = path.split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise UserError(
            f"config.data.source must be hub:OWNER/NAME, hub:OWNER/NAME/CONFIG, perhaps with "
            f"@REVISION; got 'hub:{name}'"
        )
    options = {
        "path": "/".join(parts[:2]),
        "name": parts[2] if len(parts) == 3 else None,
        "revision": revision or None,
        "cache_dir": cache_dir or None,
    }
    failure, advice = f"{label} cannot be loaded from the hub", "check its name and the network"
    loaded = _call(lambda: datasets.load_dataset(**options), failure, advice)
    for split in splits:
        if split in loaded:
            return HubTable(_undecoded(loaded[split]), label, splits[0], pathlib.Path())
    raise UserError(
        f"{label} must have a split {' or '.join(splits)}; it has {', '.join(loaded)}. Take another "
        "data set, or do without held-out records (--config.hooks.probe_every=0 "
        "--config.evals.num_records=0)"
    )


def _undecoded(data: datasets.Dataset) -> datasets.Dataset:
    """``data`` without the decoders of its pictures."""
    datasets = _library()
    for name, feature in data.features.items():
        if isinstance(feature, datasets.Image):
            data = data.cast_column(name, datasets.Image(decode=False))
        # Lists of pictures become lists of objects.
        element = getattr(feature, "feature", None) if isinstance(feature, datasets.List) else None
        if isinstance(element, datasets.Image):
            data = data.cast_column(name, datasets.List(datasets.Image(decode=False)))
    return data


def _library() -> types.ModuleType:
    """The library ``datasets``.

    Raises:
      UserError: it is not installed.
    """
    try:
        import datasets
    except ImportError:
        raise UserError(
            "Parquet, Arrow and data sets of the hub need the library datasets, which is not "
            "installed; pip install 'corl_jax[data]'"
        ) from None
    return datasets


def _call(function: Callable[[], T], failure: str, advice: str) -> T:
    """The result of a call of ``datasets``, which raises nearly everything.

    Raises:
      UserError: it failed; the text begins with ``failure``.
    """
    try:
        return function()
    except Exception as error:
        # The library wraps what went wrong into errors about its cache.
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise UserError(f"{failure} ({describe_error(cause)}); {advice}") from None
