"""Rows of a data set as records: texts are read and checked when it is opened, pictures later.

Every layout is a ``Table``: it says where its rows come from, what stands in their columns and
where their pictures are. ``TableSource`` makes the same records of all of them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import operator
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, SupportsIndex

import numpy as np

from corl_jax.core.errors import UserError
from corl_jax.core.types import COLUMN_FIELDS, Record
from corl_jax.data.record_fields import make_record
from corl_jax.data.records import check_record, record_label
from corl_jax.data.sources.columns import (
    USUAL_COLUMNS,
    look_up,
    plain_value,
    read_fields,
    resolve_columns,
)
from corl_jax.data.sources.pictures import (
    Picture,
    picture_bytes,
    picture_ends,
    picture_pixels,
    read_picture,
)

PLACEHOLDER_IMAGE = np.zeros((1, 1, 3), np.uint8)
"""Stands in for the image of a record until the image is read."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A row as it is stored.

    Attributes:
      location: for errors, such as ``line 3 of 'train.jsonl'``.
      id: of a row that has no column for it.
      values: column to value; of pictures that are stored in the row only ``StoredPicture``.
      problem: why it cannot be read; "" if it can.
    """

    location: str
    id: str
    values: Mapping[str, object]
    problem: str = ""


class Table(Protocol):
    """Rows of a split.

    Attributes:
      label: what errors call it.
      columns: names of its columns.
      folder: that paths of pictures are relative to.
      files: whose bytes are hashed to know the rows again; () to hash what is read of them.
    """

    @property
    def label(self) -> str: ...

    @property
    def columns(self) -> Sequence[str]: ...

    @property
    def folder(self) -> pathlib.Path: ...

    @property
    def files(self) -> Sequence[pathlib.Path]: ...

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """All rows in their order, with at least ``columns``, which may be paths."""
        ...


class TableSource:
    """Records of a table. An image is read when its record is indexed.

    Attributes:
      unreadable: position of a row that is no record to the reason; indexing it is an error.
    """

    def __init__(
        self, table: Table, columns: Mapping[str, str], *, with_usual_columns: bool = True
    ):
        """Reads and checks all texts, and checks that all image files exist.

        Args:
          table: the rows.
          columns: field to column, as in ``config.data.columns``.
          with_usual_columns: whether other fields are looked for under their usual names.

        Raises:
          UserError: columns that do not exist, or no rows.
        """
        self._files = tuple(table.files)
        # A row that is no record keeps its place, so that all of them can be named at once.
        self.unreadable: dict[int, str] = {}
        self._records: list[Record | None] = []
        self._pictures: list[Picture | None] = []

        usual = USUAL_COLUMNS if with_usual_columns else {}
        resolved = resolve_columns(table.columns, columns, table.label, usual)
        ids: set[str] = set()
        for row in table.rows(tuple(resolved.values())):
            record, picture = None, None
            try:
                record, picture = read_row(row, resolved, table.folder, ids)
                ids.add(record.id)
            except UserError as error:
                self.unreadable[len(self._records)] = str(error)
            self._records.append(record)
            self._pictures.append(picture)
        if not self._records:
            raise UserError(f"{table.label} has no records; write one per row, or name another")

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: SupportsIndex) -> Record:
        position = operator.index(index)
        if not 0 <= position < len(self):
            raise IndexError(f"record {position} of {len(self)}")
        try:
            record, picture = self.text_record(position), self._pictures[position]
            if picture is None:
                return record
            image = picture_pixels(picture, record_label(record))
        except UserError as error:
            raise UserError(
                f"{error}; or set --config.data.check=all --config.data.on_bad=drop to take "
                "another record in its place"
            ) from None
        return dataclasses.replace(record, image=image)

    def text_record(self, index: int) -> Record:
        """The record at ``index`` with a placeholder for its image, which is not read.

        Raises:
          UserError: it is unreadable.
        """
        record = self._records[index]
        if record is None:
            raise UserError(self.unreadable[index])
        return record

    @property
    def has_image_files(self) -> bool:
        """Whether a record has a picture: they are read when they are needed."""
        return any(picture is not None for picture in self._pictures)

    def check_image(self, index: int) -> None:
        """Raises UserError if the image of the record at ``index`` cannot be read."""
        label, picture = record_label(self.text_record(index)), self._pictures[index]
        if picture is not None:
            picture_pixels(picture, label)

    def image_bytes(self, index: int) -> bytes | None:
        """The picture of the record at ``index`` as it is stored; None if it has none.

        Raises:
          UserError: it cannot be read, or the record is unreadable.
        """
        label, picture = record_label(self.text_record(index)), self._pictures[index]
        return None if picture is None else picture_bytes(picture, label)

    def fingerprint(self) -> str:
        """Hash of the files, or of all texts, and of the size and both ends of each picture."""
        digest = hashlib.sha256()
        for path in self._files:
            digest.update(path.read_bytes())
        for position, record in enumerate(() if self._files else self._records):
            texts = [] if record is None else [vars(record)[name] for name in _TEXT_FIELDS]
            digest.update(repr(texts or self.unreadable[position]).encode())
        for picture in self._pictures:
            if picture is not None:
                digest.update(picture_ends(picture))
        return digest.hexdigest()

    def qa_type_and_kind(self, index: int) -> tuple[str, str]:
        """``qa_type`` and ``kind`` of the record at ``index``; "" if it is unreadable."""
        record = self._records[index]
        return ("", "") if record is None else (record.qa_type, record.kind)


_TEXT_FIELDS = tuple(name for name in COLUMN_FIELDS if name != "image")


def read_row(
    row: Row, columns: Mapping[str, str], folder: pathlib.Path, ids: set[str]
) -> tuple[Record, Picture | None]:
    """The record of a row without its image, and where the image is.

    Args:
      row: of the table.
      columns: field to column.
      folder: that paths of pictures are relative to.
      ids: of the rows before.

    Raises:
      UserError: it is no record.
    """
    if row.problem:
        raise UserError(row.problem)
    picture = None
    if "image" in columns:
        value = plain_value(look_up(row.values, columns["image"]))
        picture = read_picture(value, columns["image"], folder, row.location)

    fields = read_fields(row.values, columns, row.location)
    record_id = str(fields.get("id", "")) or row.id
    if record_id in ids:
        raise UserError(
            f"{row.location} has the id {record_id!r} of an earlier row; ids must be unique"
        )
    # The check needs some image; the real one is read when the record is indexed.
    image = None if picture is None else PLACEHOLDER_IMAGE
    return check_record(make_record(fields, record_id, image, row.location)), picture
