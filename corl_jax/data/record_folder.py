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
from corl_jax.core.errors import UserError
from corl_jax.core.types import Record
from corl_jax.data.image_files import load_image
from corl_jax.data.record_files import REQUIRED_COLUMNS, parse_record, picture_file, read_columns
from corl_jax.data.records import check_record

PLACEHOLDER_IMAGE = np.zeros((1, 1, 3), np.uint8)
"""Stands in for the image of a record until the image is read."""


class FolderSource:
    """Records of one split. Texts are in memory; an image is read when its record is indexed."""

    def __init__(self, folder: str | os.PathLike[str], split: str):
        """Reads and checks all texts, and checks that all image files exist.

        Args:
          folder: the folder with ``SPLIT.jsonl``; image paths are relative to it.
          split: ``train`` or ``test``.

        Raises:
          UserError: the file does not exist, or a row is unusable; it names the line.
        """
        # An empty name is refused here, since it would mean the current folder.
        path = user_path(folder, "config.data.dir") / f"{split}.jsonl"
        if not str(folder) or not path.is_file():
            raise UserError(
                f"config.data.dir={str(folder)!r} has no {split}.jsonl; put the records there, "
                f"one JSON object per line with {', '.join(REQUIRED_COLUMNS)} "
                "(docs/recipes.md shows how), or name another folder"
            )

        self._path = path
        self._records: list[Record] = []
        self._image_paths: list[pathlib.Path] = []
        self._locations: list[str] = []
        ids: set[str] = set()
        for row in read_columns(path):
            location, record_id, columns = row
            # A missing image is an error now, not in the middle of the training.
            image_path = picture_file(row, "real_image", path.parent)
            if not image_path.is_file():
                raise UserError(
                    f"{location} names the image {str(image_path)!r}, which does not exist; "
                    "check the path"
                )
            if record_id in ids:
                raise UserError(
                    f"{location} has the id {record_id!r} of an earlier row; ids must be unique"
                )
            ids.add(record_id)

            # The check needs some image; the real one is read when the record is indexed.
            record = parse_record(columns, record_id, PLACEHOLDER_IMAGE, location)
            self._records.append(check_record(record))
            self._image_paths.append(image_path)
            self._locations.append(location)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: SupportsIndex) -> Record:
        position = operator.index(index)
        if not 0 <= position < len(self):
            raise IndexError(f"record {position} of {len(self)}")
        image = load_image(self._image_paths[position], self._locations[position])
        return dataclasses.replace(self._records[position], image=image)

    def texts(self, index: int) -> Record:
        """The record at ``index`` without its image."""
        return self._records[index]

    def fingerprint(self) -> str:
        """Hash of the bytes of the file, and of the size of each image that it names."""
        digest = hashlib.sha256(self._path.read_bytes())
        for image_path in self._image_paths:
            digest.update(f"{image_path.stat().st_size} ".encode())
        return digest.hexdigest()

    def qa_type_and_kind(self, index: int) -> tuple[str, str]:
        """``qa_type`` and ``kind`` of the record at ``index``."""
        return self._records[index].qa_type, self._records[index].kind
