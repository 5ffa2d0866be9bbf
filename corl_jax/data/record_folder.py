"""A data set in a folder, for training: one JSON Lines file per split and the images it names.

The folder has a ``train.jsonl`` and optionally a ``test.jsonl`` with the columns that
``data.record_files`` describes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import operator
import os
import pathlib
from typing import SupportsIndex

import numpy as np

from corl_jax.core.checks.paths import user_path
from corl_jax.core.errors import UserError, describe_error
from corl_jax.core.types import Record
from corl_jax.data.image_files import load_image
from corl_jax.data.record_files import (
    REQUIRED_COLUMNS,
    RawRow,
    numbered_lines,
    parse_record,
    parse_row,
    picture_file,
)
from corl_jax.data.records import check_record, record_label

PLACEHOLDER_IMAGE = np.zeros((1, 1, 3), np.uint8)
"""Stands in for the image of a record until the image is read."""


class FolderSource:
    """Records of one split. Texts are in memory; an image is read when its record is indexed.

    Attributes:
      unreadable: position of a row that is no record to the reason; indexing it is an error.
    """

    def __init__(self, folder: str | os.PathLike[str], split: str):
        """Reads and checks all texts, and checks that all image files exist.

        Args:
          folder: the folder with ``SPLIT.jsonl``; image paths are relative to it.
          split: ``train`` or ``test``.

        Raises:
          UserError: the file does not exist, or it has no rows.
        """
        # An empty name is refused here, since it would mean the current folder.
        path = user_path(folder, "config.data.source") / f"{split}.jsonl"
        if not str(folder) or not path.is_file():
            raise UserError(
                f"config.data.source={str(folder)!r} has no {split}.jsonl; put the records there, "
                f"one JSON object per line with {', '.join(REQUIRED_COLUMNS)} "
                "(docs/recipes.md shows how), or name another folder"
            )

        self._path = path
        # A row that is no record keeps its place, so that all of them can be named at once.
        self.unreadable: dict[int, str] = {}
        self._records: list[Record | None] = []
        self._image_paths: list[pathlib.Path] = []
        ids: set[str] = set()
        for number, line in numbered_lines(path):
            record, image_path = None, path
            try:
                record, image_path = _read_texts(parse_row(path, number, line), path.parent, ids)
                ids.add(record.id)
            except UserError as error:
                self.unreadable[len(self._records)] = str(error)
            self._records.append(record)
            self._image_paths.append(image_path)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: SupportsIndex) -> Record:
        position = operator.index(index)
        if not 0 <= position < len(self):
            raise IndexError(f"record {position} of {len(self)}")
        try:
            record = self.text_record(position)
            image = load_image(self._image_paths[position], record_label(record))
        except UserError as error:
            raise UserError(
                f"{error}; or set --config.data.check=all --config.data.unusable=replace to take "
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
        """Images are read when they are needed."""
        return True

    def check_image(self, index: int) -> None:
        """Raises UserError if the image of the record at ``index`` cannot be read."""
        load_image(self._image_paths[index], record_label(self.text_record(index)))

    def image_bytes(self, index: int) -> bytes:
        """The content of the image file of the record at ``index``.

        Raises:
          UserError: it cannot be read, or the record is unreadable.
        """
        label = record_label(self.text_record(index))
        path = self._image_paths[index]
        try:
            return path.read_bytes()
        except OSError as error:
            raise UserError(
                f"{label}: image {str(path)!r} cannot be read ({describe_error(error)}); check the "
                "file"
            ) from None

    def fingerprint(self) -> str:
        """Hash of the bytes of the file, and of the size of each image that it names."""
        digest = hashlib.sha256(self._path.read_bytes())
        for image_path in self._image_paths:
            digest.update(f"{image_path.stat().st_size} ".encode())
        return digest.hexdigest()

    def qa_type_and_kind(self, index: int) -> tuple[str, str]:
        """``qa_type`` and ``kind`` of the record at ``index``; "" if it is unreadable."""
        record = self._records[index]
        return ("", "") if record is None else (record.qa_type, record.kind)


def _read_texts(row: RawRow, folder: pathlib.Path, ids: set[str]) -> tuple[Record, pathlib.Path]:
    """The record of a row without its image, and where the image is.

    Args:
      row: of the file.
      folder: that image paths are relative to.
      ids: of the rows before.
    """
    # A missing image is an error now, not in the middle of the training.
    image_path = picture_file(row, "real_image", folder)
    if not image_path.is_file():
        raise UserError(
            f"{row.location} names the image {str(image_path)!r}, which does not exist; "
            "check the path"
        )
    if row.record_id in ids:
        raise UserError(
            f"{row.location} has the id {row.record_id!r} of an earlier row; ids must be unique"
        )

    # The check needs some image; the real one is read when the record is indexed.
    record = parse_record(row.columns, row.record_id, PLACEHOLDER_IMAGE, row.location)
    return check_record(record), image_path
