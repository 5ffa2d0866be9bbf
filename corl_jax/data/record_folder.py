"""Records of a data set in files, for training: a JSON Lines file a split, pictures beside it.

In: a folder with ``train.jsonl`` and maybe ``test.jsonl``, rows as in ``data.record_files``. Out: a source of Records.
"""

from __future__ import annotations

import dataclasses
import operator
import os
import pathlib
from typing import SupportsIndex

import numpy as np

from corl_jax.core.errors import UserError
from corl_jax.core.types import Record
from corl_jax.data.images import load_image
from corl_jax.data.record_files import NEEDED, read_lines, record_of
from corl_jax.data.records import check

BLANK = np.zeros((1, 1, 3), np.uint8)
"""Stands for a picture that is not read yet."""


class FolderSource:
    """Records of one split: texts in memory, pictures read whenever they are asked for."""

    def __init__(self, folder: str | os.PathLike[str], split: str):
        """Reads and checks all texts, and that all pictures are there.

        Args:
          folder: with ``SPLIT.jsonl``; pictures are named relative to it.
          split: ``train`` or ``test``.

        Raises:
          UserError: no such file, or a row that cannot be used; it names the line.
        """
        path = pathlib.Path(folder).expanduser() / f"{split}.jsonl"
        if not str(folder) or not path.is_file():
            raise UserError(
                f"config.data.dir={str(folder)!r} has no {split}.jsonl; put the records there, one JSON object a line "
                f"with {', '.join(NEEDED)} (docs/recipes.md shows how), or name another folder"
            )
        self._records: list[Record] = []
        self._pictures: list[pathlib.Path] = []
        seen: set[str] = set()
        for where, name, raw in read_lines(path):
            picture = path.parent / raw["real_image"]
            if not picture.is_file():
                raise UserError(
                    f"{where} names the picture {str(picture)!r}, which does not exist; check the path"
                )
            if name in seen:
                raise UserError(
                    f"{where} has the id {name!r} of an earlier row; ids must be unique"
                )
            seen.add(name)
            self._records.append(check(record_of(raw, name, BLANK)))
            self._pictures.append(picture)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: SupportsIndex) -> Record:
        at = operator.index(index)
        if not 0 <= at < len(self):
            raise IndexError(f"record {at} of {len(self)}")
        return dataclasses.replace(self._records[at], image=load_image(self._pictures[at]))

    def about(self, index: int) -> tuple[str, str]:
        """``qa_type`` and ``kind`` of a record."""
        return self._records[index].qa_type, self._records[index].kind
