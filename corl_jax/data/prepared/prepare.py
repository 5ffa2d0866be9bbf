"""Makes a prepared set of the splits of a source; a pass that was ended goes on where it was.

The set grows in ``DIR.partial`` and becomes ``DIR`` at the end, so that what is at ``DIR`` is
always complete.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from tqdm import tqdm

from corl_jax.core.checks.json_object import JsonObject
from corl_jax.core.checks.paths import make_folder
from corl_jax.core.errors import UserError
from corl_jax.core.files import write_atomically, write_json
from corl_jax.data.prepared.blocks import (
    ROWS_PER_BLOCK,
    Block,
    description_file,
    write_block,
)
from corl_jax.data.prepared.features import example_writer
from corl_jax.data.prepared.metadata import write_metadata
from corl_jax.data.prepared.row_pass import PreparableSource, RowPass
from corl_jax.data.prepared.source import DESCRIPTION_FILE
from corl_jax.data.prepared.summary import REJECTED, LeftOut, Summary

IDENTITY_FILE = "begun.json"
"""File in the unfinished set: what it is made of."""
REJECTED_FILE = "rejected.jsonl"
"""Rows that are not in the set, each with its reason."""
MAX_REASONS = 5
"""Most reasons that an error lists."""
SHEET_PICTURES = 48
"""Pictures of a split on the contact sheet."""

PassOf = Callable[[PreparableSource], RowPass]
"""The pass over the rows of a source."""


@dataclasses.dataclass(frozen=True)
class PreparedSplit:
    """What became of the rows of a split.

    Attributes:
      name: of the split.
      rows: of the source.
      blocks: that they were written in.
      summary: their statistics.
    """

    name: str
    rows: int
    blocks: tuple[Block, ...]
    summary: Summary

    @property
    def kept(self) -> int:
        """Rows of the prepared set."""
        return sum(block.kept for block in self.blocks)

    @property
    def left_out(self) -> list[LeftOut]:
        """The other rows."""
        return [row for block in self.blocks for row in block.left_out]


def partial_folder(out: pathlib.Path) -> pathlib.Path:
    """Where the set of ``out`` grows."""
    return out.with_name(out.name + ".partial")


def prepare_splits(
    sources: Mapping[str, PreparableSource],
    pass_of: PassOf,
    out: pathlib.Path,
    identity: Mapping[str, Any],
    max_bad: float,
) -> list[PreparedSplit]:
    """Writes all splits into ``partial_folder(out)``.

    Args:
      sources: by the name of the split.
      pass_of: what is checked of a source.
      out: the prepared set; it is not made here, see ``finish``.
      identity: as JSON, what the result depends on beside the data.
      max_bad: share of rows that may be rejected.

    Raises:
      UserError: too many rows are rejected, none is left, or ``out`` was begun from something else.
    """
    folder = partial_folder(out)
    fingerprints = {split: source.fingerprint() for split, source in sources.items()}
    _begin(folder, {**identity, "fingerprints": fingerprints})

    splits = []
    for split, source in sources.items():
        prepared = _prepare_split(split, source, pass_of(source), folder, identity, max_bad)
        splits.append(prepared)
        _write_rejected(folder, splits)
        _check_rejected(prepared, prepared.rows, max_bad, folder)
        if not prepared.kept:
            raise UserError(
                f"the split {split!r} must have a row that can be used; all {prepared.rows} are "
                f"rejected: {_reasons(prepared.summary)}. Correct the data"
            )
    return splits


def finish(out: pathlib.Path, splits: list[PreparedSplit], identity: Mapping[str, Any]) -> None:
    """Turns the blocks into a data set of TFDS and moves it to ``out``."""
    folder = partial_folder(out)
    write_metadata(folder, splits)
    description = {
        **identity,
        "rows": {split.name: {"source": split.rows, "kept": split.kept} for split in splits},
        "digests": {split.name: _digest(split) for split in splits},
    }
    write_json(folder / DESCRIPTION_FILE, description)

    if out.is_dir():
        out.rmdir()
    folder.rename(out)

    # The descriptions of the blocks were for going on.
    for split in splits:
        for number in range(len(split.blocks)):
            description_file(out / split.name, number).unlink()
        (out / split.name).rmdir()
    (out / IDENTITY_FILE).unlink()


def _begin(folder: pathlib.Path, identity: Mapping[str, Any]) -> None:
    """Makes the folder, or checks that it was begun from the same source and settings."""
    path, today = folder / IDENTITY_FILE, json.loads(json.dumps(identity))
    if path.is_file():
        before = JsonObject.read(path).entries
        keys = sorted(before.keys() | today.keys())
        changed = [key for key in keys if before.get(key) != today.get(key)]
        if changed:
            raise UserError(
                f"{str(folder)!r} holds an unfinished set that was begun with another "
                f"{', '.join(changed)}; remove that folder, or choose another --out"
            )
        return
    make_folder(folder, "--out")
    write_json(path, today)


def _prepare_split(
    split: str,
    source: PreparableSource,
    row_pass: RowPass,
    folder: pathlib.Path,
    identity: Mapping[str, Any],
    max_bad: float,
) -> PreparedSplit:
    """Writes the blocks of a split that are not there yet."""
    blocks_folder = folder / split
    make_folder(blocks_folder, "--out")
    total, first_row_of = len(source), dict[str, int]()
    picked = np.linspace(0, max(total - 1, 0), min(total, SHEET_PICTURES)).astype(int)
    thumbnails, serialize = frozenset(map(int, picked)), example_writer()
    prepared = PreparedSplit(split, total, (), Summary())

    bar = tqdm(
        total=total,
        desc=f"preparing {split}",
        file=sys.stderr,
        ascii=True,
        unit="row",
        mininterval=1.0,
    )
    with bar:
        for number, start in enumerate(range(0, total, ROWS_PER_BLOCK)):
            rows = range(start, min(start + ROWS_PER_BLOCK, total))
            block = Block.read(description_file(blocks_folder, number))
            if block is None:
                checked = _counted(row_pass(rows, thumbnails), bar)
                file = f"{identity['source']} ({split})"
                block = write_block(blocks_folder, number, checked, first_row_of, serialize, file)
            else:
                first_row_of |= block.digests
                bar.update(block.rows)
            summary = Summary.from_json([prepared.summary.as_json(), block.summary])
            prepared = PreparedSplit(split, total, (*prepared.blocks, block), summary)
            bar.set_postfix(rejected=summary.count(REJECTED))
            # A set that is bad as a whole should say so early.
            _write_rejected(folder, [prepared])
            _check_rejected(prepared, start + len(rows), max_bad, folder)
    return prepared


def _counted(rows: Iterator[Any], bar: tqdm) -> Iterator[Any]:
    """The same rows, each of them a step of the bar."""
    for row in rows:
        yield row
        bar.update()


def _check_rejected(split: PreparedSplit, done: int, max_bad: float, folder: pathlib.Path) -> None:
    """Raises UserError where more rows are rejected than the whole split may have."""
    bad = split.summary.count(REJECTED)
    if bad <= max_bad * split.rows:
        return
    raise UserError(
        f"at most {max_bad:.2%} of the {split.rows} rows of the split {split.name!r} may be "
        f"rejected (--max-bad); got {bad} in the first {done} rows: {_reasons(split.summary)}. "
        f"{str(folder / REJECTED_FILE)!r} lists all of them; correct the data, or raise --max-bad"
    )


def _reasons(summary: Summary) -> str:
    """The most frequent reasons, with their numbers."""
    counts = summary.values[REJECTED].most_common()
    listed = "; ".join(f"{rows} x {reason}" for reason, rows in counts[:MAX_REASONS])
    more = len(counts) - MAX_REASONS
    return listed + (f"; and {more} other reasons" if more > 0 else "")


def _write_rejected(folder: pathlib.Path, splits: list[PreparedSplit]) -> None:
    """Writes one line of JSON for each row that is left out."""
    lines = [
        json.dumps(dataclasses.asdict(row), ensure_ascii=False)
        for split in splits
        for row in split.left_out
    ]
    write_atomically(folder / REJECTED_FILE, "".join(f"{line}\n" for line in lines))


def _digest(split: PreparedSplit) -> str:
    """Hash of all rows in their order."""
    digest = hashlib.sha256()
    for block in split.blocks:
        digest.update("".join(block.digests).encode())
    return digest.hexdigest()
