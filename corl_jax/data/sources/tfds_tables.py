"""Any data set of TensorFlow Datasets, by name. TensorFlow itself is not imported."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds

from corl_jax.core.errors import UserError, describe_error
from corl_jax.data.records import ADD_OR_DIVIDE
from corl_jax.data.sources.columns import plain_value, top_columns
from corl_jax.data.sources.pictures import StoredPicture
from corl_jax.data.sources.table import Row


@dataclasses.dataclass(frozen=True)
class TfdsTable:
    """Rows of one split.

    Attributes:
      data: random access to the rows; pictures are the bytes of their files.
      features: by column.
      label: what errors call it.
      split: which ids of rows begin with.
      folder: none.
      files: none.
    """

    data: Sequence[Mapping[str, Any]]
    features: Mapping[str, Any]
    label: str
    split: str
    folder: pathlib.Path = pathlib.Path()
    files: tuple[pathlib.Path, ...] = ()

    @property
    def columns(self) -> Sequence[str]:
        return tuple(self.features)

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """All rows, without the content of their pictures."""
        names = sorted(top_columns(columns, self.columns))
        for index in range(len(self.data)):
            stored = self.data[index]
            values = {name: self._value(stored[name], name, index) for name in names}
            location = f"row {index + 1} of {self.label}"
            yield Row(location, f"{self.split}-{index + 1}", values)

    def _value(self, value: Any, name: str, index: int) -> object:
        feature = self.features[name]
        if isinstance(feature, tfds.features.Image):
            return StoredPicture(lambda: self.data[index][name], len(value))
        if isinstance(feature, tfds.features.ClassLabel):
            # -1 stands for a class that is not known.
            return feature.int2str(int(value)) if value >= 0 else None
        return _plain(value)


def _plain(value: Any) -> object:
    """Texts in place of bytes, also within objects and lists."""
    value = plain_value(value)
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value
    return value


def open_tfds(name: str, splits: Sequence[str], data_dir: str) -> TfdsTable:
    """The first of ``splits`` that a data set has; it is prepared if it was not.

    Args:
      name: ``NAME``, ``NAME/CONFIG`` or ``NAME/CONFIG:VERSION``.
      splits: names to try.
      data_dir: of TFDS; "" is its own.

    Raises:
      UserError: there is no such data set or split, or it cannot be prepared or read.
    """
    label = f"the TFDS data set {name!r}"
    try:
        # TFDS prints about its progress; standard output belongs to the command.
        with contextlib.redirect_stdout(io.StringIO()):
            builder = _builder(name, data_dir)
            builder.download_and_prepare()
            available = list(builder.info.splits)
            found = [split for split in splits if split in available]
            decoders = {
                column: tfds.decode.SkipDecoding()
                for column, feature in builder.info.features.items()
                if isinstance(feature, tfds.features.Image)
            }
            data = builder.as_data_source(split=found[0], decoders=decoders) if found else None
    # TFDS raises nearly everything, also on what a builder of someone else does.
    except Exception as error:
        raise UserError(
            f"{label} cannot be opened ({describe_error(error)}); check its name, the network, and "
            "config.data.cache_dir, the folder of TFDS data sets. Random access needs the file "
            "format array_record"
        ) from None
    if data is None:
        raise UserError(
            f"{label} must have a split {' or '.join(splits)}; it has {', '.join(available)}. Take "
            f"another data set, {ADD_OR_DIVIDE}"
        )
    return TfdsTable(data, dict(builder.info.features.items()), label, splits[0])


def _builder(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
    """A builder; files that exist keep their format, new ones get one with random access."""
    options = {"data_dir": data_dir} if data_dir else {}
    builder = tfds.builder(name, **options)
    if builder.is_prepared():
        return builder
    return tfds.builder(name, file_format="array_record", **options)
