"""Statistics of rows, which add up: those of a block become those of a set."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from corl_jax.core.types import Record
from corl_jax.data.prepared.picture_facts import PictureFacts

REJECTED, DUPLICATE = "rejected", "duplicate"
"""Kinds of rows that are left out: unusable ones, and copies of rows before them."""


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A row that is not in the prepared set.

    Attributes:
      file: address of the source, and the split.
      row: position in the split, from 0.
      kind: ``REJECTED`` or ``DUPLICATE``.
      reason: one line; where the source has them it names line, file and record.
    """

    file: str
    row: int
    kind: str
    reason: str


@dataclasses.dataclass
class Summary:
    """Counts of values.

    Attributes:
      values: name of a table to its values, each with the number of its rows.
      numbers: name of a measure to its values, each with the number of its rows.
    """

    values: dict[str, Counter[str]] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(Counter)
    )
    numbers: dict[str, Counter[int]] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(Counter)
    )

    def add_record(self, record: Record, facts: PictureFacts | None, size: int) -> None:
        """Counts a row that is kept.

        Args:
          record: of the row.
          facts: of its picture; None where it has none.
          size: bytes of the picture.
        """
        texts = {"type of question": record.qa_type, "kind of question": record.kind}
        texts["answer"] = record.answer if record.question else ""
        if facts is not None:
            texts["format of pictures"] = f"{facts.format} {facts.mode}"
            self.numbers["width of pictures in pixels"][facts.width] += 1
            self.numbers["height of pictures in pixels"][facts.height] += 1
            self.numbers["size of pictures in KB"][round(size / 1000)] += 1
        for name, value in texts.items():
            if value:
                self.values[name][value] += 1

    def add_lengths(self, lengths: Mapping[str, int]) -> None:
        """Counts numbers of tokens, by the name of the text."""
        for name, length in lengths.items():
            self.numbers[f"tokens of the {name}"][length] += 1

    def add_left_out(self, row: LeftOut) -> None:
        """Counts a row that is not kept."""
        self.values[row.kind][reason_kind(row.reason)] += 1

    def count(self, kind: str) -> int:
        """Rows that were left out for reasons of a kind."""
        return self.values[kind].total()

    def as_json(self) -> dict[str, Any]:
        """For a file; ``from_json`` reads it."""
        return {
            "values": {name: dict(counts) for name, counts in self.values.items()},
            "numbers": {name: dict(counts) for name, counts in self.numbers.items()},
        }

    @classmethod
    def from_json(cls, parts: Iterable[Mapping[str, Any]]) -> Summary:
        """The sum of summaries."""
        total = cls()
        for part in parts:
            for name, values in part["values"].items():
                total.values[name].update(values)
            for name, numbers in part["numbers"].items():
                # JSON writes the keys of an object as texts.
                total.numbers[name].update({int(key): rows for key, rows in numbers.items()})
        return total


def reason_kind(reason: str) -> str:
    """A reason without what differs from row to row, so that rows can be counted by it."""
    text = re.sub(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", "…", reason)
    text = re.sub(r"…(, …)+", "…", re.sub(r"\d+", "N", text))
    # The row is named first; what it must be and the remedy follow.
    text = re.sub(r"^(record …( \([^)]*\))?|(line|row) N of …):? ?", "", text)
    return re.split(r"; |\. ", text, maxsplit=1)[0]
