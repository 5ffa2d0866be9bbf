"""Finds all records that training cannot use, before it begins.

Records are read once in blocks, by several threads, so that memory does not grow with their number.
With several processes each reads a share of them, and all get the same result.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import jax

from corl_jax.core.errors import UserError
from corl_jax.core.processes.agreement import texts_of_processes
from corl_jax.core.progress import ProgressBar
from corl_jax.core.types import Record
from corl_jax.data.records import TextTooLong

CHECK_LEVELS = ("all", "texts", "none")
"""What is checked: texts and pictures, texts alone, or only what opening the records shows."""

ON_BAD = ("error", "drop")
"""What happens to records that cannot be used: the run ends, or others take their place."""

LISTED = 10
"""Most records that an error lists."""
MAX_TEXT = 240
"""Most characters of what an error says about one record."""
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


@dataclasses.dataclass
class Findings:
    """Records that cannot be used.

    Attributes:
      rows: their positions in the source, ascending.
      examples: position and reason of the first ``LISTED`` of them.
      widths: config key of a width that is too small to the tokens that would do for all.
    """

    rows: list[int] = dataclasses.field(default_factory=list)
    examples: list[tuple[int, str]] = dataclasses.field(default_factory=list)
    widths: dict[str, int] = dataclasses.field(default_factory=dict)

    def add(self, row: int, errors: Sequence[Exception]) -> None:
        """Adds what was found about the record at ``row``."""
        self.rows.append(row)
        for error in errors:
            if isinstance(error, TextTooLong) and error.key:
                self.widths[error.key] = max(self.widths.get(error.key, 0), error.tokens)
        if len(self.examples) < LISTED:
            reasons = (_shorten(error_text(error)) for error in errors)
            self.examples.append((row, "; ".join(dict.fromkeys(reasons))))

    @classmethod
    def of_all_processes(cls, findings: Findings) -> Findings:
        """The findings of all processes as one, the same on each of them."""
        parts = map(json.loads, texts_of_processes(json.dumps(dataclasses.asdict(findings))))
        merged = cls()
        for part in parts:
            merged.rows += part["rows"]
            merged.examples += [(row, text) for row, text in part["examples"]]
            for key, tokens in part["widths"].items():
                merged.widths[key] = max(merged.widths.get(key, 0), tokens)
        return cls(sorted(merged.rows), sorted(merged.examples)[:LISTED], merged.widths)

    def describe(self, label: str, total: int) -> str:
        """One line that names the records, with what is wrong with each."""
        listed = "; ".join(text for _, text in self.examples)
        more = len(self.rows) - len(self.examples)
        rest = f"; and {more} more" if more else ""
        return f"{len(self.rows)} of {total} {label} records cannot be used: {listed}{rest}"


def usable_rows(
    source: CheckedSource,
    rows: Sequence[int],
    checks: Sequence[Check],
    *,
    level: str = "all",
    on_bad: str = "error",
    label: str = "training",
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

    Raises:
      UserError: there are records that cannot be used, and they are not to be replaced, or all of
        them are.
    """
    findings = Findings.of_all_processes(_find(source, rows, checks, level, label))
    if not findings.rows:
        return rows

    description = findings.describe(label, len(rows))
    unusable = set(findings.rows)
    if on_bad == "error" or len(unusable) == len(set(rows)):
        flags = [f"--config.{key}={tokens}" for key, tokens in sorted(findings.widths.items())]
        remedy = f", set {' '.join(flags)}" if flags else ""
        raise UserError(
            f"{description}. Correct the data{remedy}, or set --config.data.on_bad=drop to take "
            "other records in their place"
        )

    if jax.process_index() == 0:
        print(f"{description}. Others take their place", file=sys.stderr, flush=True)
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

    def errors_of(row: int) -> list[Exception]:
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
) -> Iterator[Exception]:
    """All errors about one record: about its texts, and about its image if that is to be read."""
    try:
        record = source.text_record(row)
    except UserError as error:
        yield error
        return
    for check in checks:
        try:
            check(record)
        except (UserError, ValueError) as error:
            yield error
    if with_image:
        try:
            source.check_image(row)
        except UserError as error:
            yield error


def _replace(rows: Sequence[int], unusable: set[int]) -> list[int]:
    """Each row, or the next one that is usable; after the last comes the first."""
    replaced: list[int] = []
    next_usable = next(row for row in rows if row not in unusable)
    for row in reversed(rows):
        next_usable = next_usable if row in unusable else row
        replaced.append(next_usable)
    return replaced[::-1]


def error_text(error: Exception) -> str:
    """What an error says about a record, on one line."""
    return error.problem if isinstance(error, TextTooLong) else " ".join(str(error).split())


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "..."
