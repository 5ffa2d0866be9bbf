"""The records of one split of a prepared set."""

from __future__ import annotations

import dataclasses
import operator
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, SupportsIndex

import numpy as np
import tensorflow_datasets as tfds

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.errors import UserError, describe_error
from corl_jax.core.types import Record
from corl_jax.data.image_files import load_image
from corl_jax.data.prepared.features import read_example, record_features
from corl_jax.data.records import ADD_OR_DIVIDE, record_label

DESCRIPTION_FILE = "prepared.json"
"""File in a prepared set that says what it was made of, and by which it is known."""
PLACEHOLDER_IMAGE = np.zeros((1, 1, 3), np.uint8)
"""Stands in for the image of a record until the image is read."""


def is_prepared(folder: pathlib.Path) -> bool:
    """Whether there is a prepared set in ``folder``."""
    return (folder / DESCRIPTION_FILE).is_file()


class PreparedSource:
    """Records by position, read from array records when they are indexed; none is kept in memory."""

    def __init__(self, folder: pathlib.Path, split: str):
        """Opens ``split`` of the prepared set in ``folder``.

        Raises:
          UserError: there is no such split, or the folder is damaged.
        """
        description = JsonObject.read(folder / DESCRIPTION_FILE, str(folder), "prepare it again")
        digests = description.block("digests")
        if not digests.has(split):
            advice = f", {ADD_OR_DIVIDE}" if split == "test" else ""
            raise UserError(
                f"the prepared set {str(folder)!r} must have the split {split!r}; it has "
                f"{', '.join(digests.entries)}. Prepare the set with --splits={split} too{advice}"
            )
        self._digest, self._folder = digests.text(split), folder
        self._rows = _open_rows(folder, split)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: SupportsIndex) -> Record:
        position = operator.index(index)
        if not 0 <= position < len(self):
            raise IndexError(f"record {position} of {len(self)}")
        columns = self._rows[position]
        record = _text_record(columns)
        if record.image is None:
            return record
        image = load_image(columns["image"], record_label(record))
        return dataclasses.replace(record, image=image)

    def text_record(self, index: int) -> Record:
        """The record at ``index`` with a placeholder for its image, which is not decoded."""
        return _text_record(self._rows[index])

    def image_bytes(self, index: int) -> bytes | None:
        """The picture of the record at ``index`` as it was in the source; None if it has none."""
        return self._rows[index]["image"] or None

    def fingerprint(self) -> str:
        """Hash of all rows, taken when they were written."""
        return self._digest

    def qa_type_and_kind(self, index: int) -> tuple[str, str]:
        """``qa_type`` and ``kind`` of the record at ``index``."""
        columns = self._rows[index]
        return columns["qa_type"].decode(), columns["kind"].decode()

    @property
    def unreadable(self) -> Mapping[int, str]:
        """Nothing: all records were read when the set was prepared."""
        return {}

    @property
    def has_image_files(self) -> bool:
        """Images are decoded when they are needed."""
        return True

    def check_image(self, index: int) -> None:
        """Does nothing: all images were decoded when the set was prepared."""


def _text_record(columns: Mapping[str, Any]) -> Record:
    """The record of an example with a placeholder for its image, if it has one."""
    return read_example(columns, PLACEHOLDER_IMAGE if columns["image"] else None)


def _open_rows(folder: pathlib.Path, split: str) -> Sequence[Mapping[str, Any]]:
    """The examples of a split with undecoded images."""
    try:
        builder = tfds.builder_from_directory(folder)
        missing = sorted(record_features().keys() - builder.info.features.keys())
        if missing:
            raise UserError(
                f"the prepared set {str(folder)!r} must have the column {missing[0]!r}, which this "
                "version reads; it has not. Prepare it again"
            )
        decoders = {"image": tfds.decode.SkipDecoding()}
        rows = builder.as_data_source(split=split, decoders=decoders)
        # The last file is opened now, so that one that is missing is no error of a step.
        rows[len(rows) - 1]
    except UserError:
        raise
    # TFDS and array_record raise whatever their libraries do.
    except Exception as error:
        raise UserError(
            f"the prepared set {str(folder)!r} cannot be read ({describe_error(error)}); prepare it "
            "again"
        ) from None
    return rows
