"""Finds all records that training cannot use, before it begins.

Records are read once in blocks, by several threads, so that memory does not grow with their number.
With several processes each reads a share of them, and all get the same result.
"""

from __future__ import annotations

import concurrent.futures
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import jax

from corl_jax.core.errors import UserError
from corl_jax.core.problems import SeveralProblems
from corl_jax.core.progress import ProgressBar
from corl_jax.core.types import Record
from corl_jax.data.findings import IMAGE, ROW, Findings

CHECK_LEVELS = ("all", "texts", "none")
"""What is checked: texts and pictures, texts alone, or only what opening the records shows."""

ON_BAD = ("error", "drop")
"""What happens to records that cannot be used: the run ends, or others take their place."""

ROWS_PER_BLOCK = 512
"""Records that are read before the next ones are given to the threads."""

Check = Callable[[Record], object]
"""Raises UserError or ValueError about a record that cannot be used; its image may be missing."""


class CheckedSource(Protocol):
    """A source whose texts and images can be checked one by one."""

    @property
    def unreadable(self) -> Mapping[int, str]:
        """Position of a record that cannot be read to the reason."""
        ...

    def __len__(self) -> int: ...

    def text_record(self, index: int) -> Record:
        """The record, perhaps without its image; UserError if it is unreadable."""
        ...

    @property
    def has_image_files(self) -> bool:
        """Whether images are files of the user, which may be damaged."""
        ...

    def check_image(self, index: int) -> None:
        """Raises UserError if the image of the record cannot be read."""
        ...


def usable_rows(
    source: CheckedSource,
    rows: Sequence[int],
    checks: Sequence[Check],
    *,
    level: str = "all",
    on_bad: str = "error",
    label: str = "training",
    quiet: bool = False,
) -> Sequence[int]:
    """``rows`` in which other records take the places of those that cannot be used.

    A record is replaced by the next usable one, so that all others keep their places and the order
    of the data does not change.

    Args:
      source: of the records.
      rows: positions in ``source``.
      checks: of texts.
      level: of ``CHECK_LEVELS``.
      on_bad: of ``ON_BAD``.
      label: what the records are, for messages.
      quiet: says nothing of those that are replaced.

    Raises:
      UserError: there are records that cannot be used, and they are not to be replaced, or all of
        them are.
    """
    findings = Findings.of_all_processes(_find(source, rows, checks, level, label))
    if not findings.rows:
        return rows

    unusable = set(findings.rows)
    is_all = len(unusable) == len(set(rows))
    if on_bad == "error" or is_all:
        problems = findings.describe(label, len(rows), can_drop=not is_all)
        raise UserError(problems[0]) if len(problems) == 1 else SeveralProblems(problems)

    if jax.process_index() == 0 and not quiet:
        for line in findings.describe(label, len(rows), can_drop=False):
            print(f"{line}. Others take their place", file=sys.stderr, flush=True)
    return _replace(rows, unusable)


def _find(
    source: CheckedSource, rows: Sequence[int], checks: Sequence[Check], level: str, label: str
) -> Findings:
    """What this process's share of the records shows."""
    findings = Findings()
    with_images = level == "all" and source.has_image_files
    candidates = rows
    if level == "none" or not (checks or with_images):
        candidates = [row for row in rows if row in source.unreadable]
    share = candidates[jax.process_index() :: jax.process_count()]

    def errors_of(row: int) -> list[tuple[str, Exception]]:
        return list(record_errors(source, row, checks, with_images))

    # A bar appears only where the check takes long enough to wonder about.
    bar = ProgressBar(
        len(share),
        label=f"checking {label} records",
        unit="record",
        quiet=jax.process_index() > 0,
        delay=3.0,
    )
    with bar, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(share), ROWS_PER_BLOCK):
            block = share[start : start + ROWS_PER_BLOCK]
            for row, errors in zip(block, pool.map(errors_of, block), strict=True):
                if errors:
                    findings.add(row, errors)
            bar.update(len(block))
    return findings


def record_errors(
    source: CheckedSource, row: int, checks: Sequence[Check], with_image: bool = False
) -> Iterator[tuple[str, Exception]]:
    """All errors about one record, each with its kind, see ``data.findings``.

    They are about its texts, and about its image if that is to be read.
    """
    try:
        record = source.text_record(row)
    except UserError as error:
        yield ROW, error
        return
    for number, check in enumerate(checks):
        try:
            check(record)
        except (UserError, ValueError) as error:
            yield f"check {number:03}", error
    if with_image:
        try:
            source.check_image(row)
        except UserError as error:
            yield IMAGE, error


def _replace(rows: Sequence[int], unusable: set[int]) -> list[int]:
    """Each row, or the next one that is usable; after the last comes the first."""
    replaced: list[int] = []
    next_usable = next(row for row in rows if row not in unusable)
    for row in reversed(rows):
        next_usable = next_usable if row in unusable else row
        replaced.append(next_usable)
    return replaced[::-1]
