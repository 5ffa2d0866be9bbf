"""One pass over rows of a source: what each of them is, or why it cannot be used.

Texts are checked here and pictures are decoded in worker processes meanwhile. Rows come out in
order. At most ``ROWS_AHEAD`` pictures per process are in memory, however many rows there are.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol

from corl_jax.core.errors import UserError
from corl_jax.core.types import Record
from corl_jax.core.workers.pool import WorkerPool
from corl_jax.data.findings import error_text
from corl_jax.data.prepared.features import TEXT_FIELDS
from corl_jax.data.prepared.picture_facts import PictureFacts, picture_facts
from corl_jax.data.records import record_label
from corl_jax.data.unusable_records import Check, CheckedSource, record_errors

ROWS_AHEAD = 4
"""Rows per worker process that are read before the first of them is done."""

Lengths = Callable[[Record], Mapping[str, int]]
"""From a record to the numbers of tokens of its texts, by their names."""


class PreparableSource(CheckedSource, Protocol):
    """A source that gives the pictures of its records as they are stored."""

    def image_bytes(self, index: int) -> bytes | None:
        """The picture of the record; None if it has none, UserError if it cannot be read."""
        ...

    def fingerprint(self) -> str:
        """A short text that changes when the records do."""
        ...


@dataclasses.dataclass(frozen=True)
class CheckedRow:
    """A row after the pass.

    Attributes:
      row: position in the source.
      problems: why it cannot be used; empty if it can.
      record: without its image; None if there are problems.
      image_bytes: its picture as it is stored; empty if it has none.
      facts: of the picture; None if it has none.
      lengths: tokens by the name of the text.
    """

    row: int
    problems: tuple[str, ...]
    record: Record | None = None
    image_bytes: bytes = b""
    facts: PictureFacts | None = None
    lengths: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def digest(self) -> bytes:
        """Hash of all that makes the row, but for its name and its place."""
        digest = hashlib.blake2b(self.image_bytes, digest_size=16)
        fields = dict(vars(self.record), id="", location="")
        for name in TEXT_FIELDS:
            # The length keeps two texts from being read as one.
            text = fields[name].encode()
            digest.update(f"{len(text)} ".encode() + text)
        digest.update(repr(fields["choices"]).encode())
        return digest.digest()


@dataclasses.dataclass(frozen=True)
class RowPass:
    """What is checked of every row.

    Attributes:
      source: of the rows.
      checks: of texts.
      lengths: what is counted in texts.
      pool: of the processes that decode.
      workers: of the pool.
    """

    source: PreparableSource
    checks: Sequence[Check]
    lengths: Lengths
    pool: WorkerPool
    workers: int

    def __call__(self, rows: Iterable[int], thumbnails: frozenset[int]) -> Iterator[CheckedRow]:
        """The rows in their order; those in ``thumbnails`` with a small copy of their picture."""
        started: collections.deque[Callable[[], CheckedRow]] = collections.deque()
        for row in rows:
            started.append(self._start(row, row in thumbnails))
            if len(started) > self.workers * ROWS_AHEAD:
                yield started.popleft()()
        while started:
            yield started.popleft()()

    def _start(self, row: int, with_thumbnail: bool) -> Callable[[], CheckedRow]:
        """Reads a row and lets its picture be decoded; the result is what waits for that."""
        problems = [error_text(error) for _, error in record_errors(self.source, row, self.checks)]
        if row in self.source.unreadable:
            return lambda: CheckedRow(row, tuple(problems))

        record = self.source.text_record(row)
        data: bytes | None = None
        try:
            data = self.source.image_bytes(row)
        except UserError as error:
            problems.append(error_text(error))

        pending: Future[PictureFacts] | None = None
        if data is not None:
            label = record_label(record)
            pending = self.pool.submit(picture_facts, data, label, with_thumbnail)

        def finish() -> CheckedRow:
            facts = None if pending is None else pending.result()
            if facts is not None and facts.problem:
                problems.append(facts.problem)
            if problems:
                return CheckedRow(row, tuple(dict.fromkeys(problems)))
            return CheckedRow(row, (), record, data or b"", facts, self.lengths(record))

        return finish
