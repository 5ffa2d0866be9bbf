"""Blocks of a prepared set: the rows of a block are written as a whole, so that a pass can go on.

A block has a file of array records and a description as JSON. The description is written last: a
block without one is written again.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

from array_record.python.array_record_module import ArrayRecordWriter

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.files import name_write_errors, write_json
from corl_jax.core.types import Record
from corl_jax.data.prepared.row_pass import CheckedRow
from corl_jax.data.prepared.summary import DUPLICATE, REJECTED, LeftOut, Summary

ROWS_PER_BLOCK = 2048
"""Rows of the source in a block."""


@dataclasses.dataclass(frozen=True)
class Block:
    """What is known of the rows of a block.

    Attributes:
      rows: of the source.
      kept: rows that were written.
      size: bytes of their pictures and texts.
      digests: of the rows that were written, with their positions in the source.
      left_out: the other rows.
      summary: statistics as JSON.
      thumbnails: label and JPEG (base64) of some pictures.
    """

    rows: int
    kept: int
    size: int
    digests: dict[str, int]
    left_out: list[LeftOut]
    summary: dict[str, Any]
    thumbnails: list[tuple[str, str]]

    @classmethod
    def read(cls, path: pathlib.Path) -> Block | None:
        """The description in a file; None if there is none."""
        if not path.is_file():
            return None
        advice = "remove the folder of the unfinished set, then start anew"
        entries: dict[str, Any] = dict(JsonObject.read(path, advice=advice).entries)
        entries["left_out"] = [LeftOut(**row) for row in entries["left_out"]]
        entries["thumbnails"] = [(label, jpeg) for label, jpeg in entries["thumbnails"]]
        return cls(**entries)


def records_file(folder: pathlib.Path, number: int) -> pathlib.Path:
    """Where the array records of a block are until the set is complete."""
    return folder / f"block-{number:05d}.array_record"


def description_file(folder: pathlib.Path, number: int) -> pathlib.Path:
    """Where the description of a block is."""
    return folder / f"block-{number:05d}.json"


def write_block(
    folder: pathlib.Path,
    number: int,
    rows: Iterable[CheckedRow],
    first_row_of: dict[str, int],
    serialize: Callable[[Record, bytes], bytes],
    file: str,
) -> Block:
    """Writes the usable rows of a block, and then its description.

    Args:
      folder: of the blocks of a split.
      number: of the block.
      rows: after the pass.
      first_row_of: digest of a row to the first row that has it; new ones are added.
      serialize: from a record and its picture to an example.
      file: what rows that are left out are said to come from.

    Raises:
      UserError: it cannot be written.
    """
    summary = Summary()
    left_out: list[LeftOut] = []
    digests: dict[str, int] = {}
    thumbnails: list[tuple[str, str]] = []
    total = size = 0
    path = records_file(folder, number)
    with name_write_errors(path):
        # Groups of one example: rows are read in any order.
        writer = ArrayRecordWriter(str(path), "group_size:1")
        try:
            for checked in rows:
                total += 1
                digest = "" if checked.problems else checked.digest().hex()
                reason = _reason_to_leave_out(checked, first_row_of.get(digest), file)
                if reason is not None:
                    left_out.append(reason)
                    summary.add_left_out(reason)
                    continue

                record, facts = checked.record, checked.facts
                assert record is not None
                example = serialize(record, checked.image_bytes)
                writer.write(example)
                size += len(example)
                digests[digest] = first_row_of[digest] = checked.row
                summary.add_record(record, facts, len(checked.image_bytes))
                summary.add_lengths(checked.lengths)
                if facts is not None and facts.thumbnail:
                    label = f"{checked.row}: {record.prompt or record.question}"
                    thumbnails.append((label, base64.b64encode(facts.thumbnail).decode()))
        finally:
            writer.close()

    block = Block(total, len(digests), size, digests, left_out, summary.as_json(), thumbnails)
    write_json(description_file(folder, number), json.loads(json.dumps(dataclasses.asdict(block))))
    return block


def _reason_to_leave_out(checked: CheckedRow, same_row: int | None, file: str) -> LeftOut | None:
    """Why a row is not kept, or None; ``same_row`` is one before it that is the same."""
    if checked.problems:
        return LeftOut(file, checked.row, REJECTED, "; ".join(checked.problems))
    if same_row is None:
        return None
    reason = f"it has the same picture and texts as row {same_row}"
    return LeftOut(file, checked.row, DUPLICATE, reason)
