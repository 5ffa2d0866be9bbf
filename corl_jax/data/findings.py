"""What is wrong with records, by kind: which of them, examples, and what would mend each kind."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence

from corl_jax.core.processes.agreement import texts_of_processes
from corl_jax.data.records import RewardMisfit, TextTooLong
from corl_jax.data.text_tokenizer import UnknownWords

EXAMPLES = 3
"""Most records of a kind whose problem is written out."""
EXAMPLES_OF_ROWS = 10
"""The same of rows and pictures that cannot be read, each for a reason of its own."""
NUMBERED = 20
"""Most other records of a kind that are named by their number."""
LISTED_WORDS = 12
"""Most unknown words that are listed."""
MAX_TEXT = 240
"""Most characters of what is said about one record."""

ROW, IMAGE, WORDS, WIDTH = "row", "image", "words", "width"
"""Kinds: a row that is no record, a picture that cannot be read, words that a tokenizer lacks, a width
that is too small. The others are checks, by their number."""


@dataclasses.dataclass
class Kind:
    """Records with one kind of problem.

    Attributes:
      most: examples to keep.
      rows: their positions in the source, ascending.
      examples: position and reason of the first of them.
      widths: config key of a width that is too small to the tokens that would do for all.
      words: that a tokenizer does not have, to the tokenizer.
      is_misfit: whether a reward cannot score the records.
    """

    most: int = EXAMPLES
    rows: list[int] = dataclasses.field(default_factory=list)
    examples: list[tuple[int, str]] = dataclasses.field(default_factory=list)
    widths: dict[str, int] = dataclasses.field(default_factory=dict)
    words: dict[str, str] = dataclasses.field(default_factory=dict)
    is_misfit: bool = False

    def add(self, row: int, error: Exception) -> None:
        """Adds a problem of the record at ``row``."""
        text = _shorten(error_text(error))
        if not self.rows or self.rows[-1] != row:
            self.rows.append(row)
        if len(self.examples) < self.most and (row, text) not in self.examples:
            self.examples.append((row, text))
        if isinstance(error, TextTooLong) and error.key:
            self.widths[error.key] = max(self.widths.get(error.key, 0), error.tokens)
        self.is_misfit |= isinstance(error, RewardMisfit)
        if (unknown := unknown_words(error)) is not None:
            self.words |= dict.fromkeys(unknown.words, unknown.label)

    def describe(self, label: str, total: int, drop: str) -> str:
        """One line that names the records, with what is wrong and what mends it.

        Args:
          label: what the records are.
          total: how many there are.
          drop: how to go on without them, or "".
        """
        head = f"{len(self.rows)} of {total} {label} records cannot be used: "
        if self.words:
            tokenizer = next(iter(self.words.values()))
            return (
                f"{head}{tokenizer} does not know {self._listed_words()} (in number "
                f"{_numbers(self.rows)}). Start from a policy whose tokenizer reads any text "
                "(corl init --out FOLDER makes one; then --config.init_from=FOLDER), use words that "
                f"the tokenizer knows{drop}"
            )

        listed = "; ".join(text for _, text in self.examples)
        others = sorted(set(self.rows) - {row for row, _ in self.examples})
        rest = f"; also number {_numbers(others)}" if others else ""
        flags = [f"--config.{key}={tokens}" for key, tokens in sorted(self.widths.items())]
        remedy = f", set {' '.join(flags)}" if flags else ""
        if self.is_misfit:
            remedy = ", choose rewards that these records fit (docs/rewards.md lists them)"
        # A text that was cut ends in dots, others in one.
        end = listed if listed.endswith("...") or rest else listed.removesuffix(".")
        return f"{head}{end}{rest}. Correct the data{remedy}{drop}"

    def _listed_words(self) -> str:
        words = sorted(self.words)
        more = f" and {len(words) - LISTED_WORDS} more words" if len(words) > LISTED_WORDS else ""
        return ", ".join(map(repr, words[:LISTED_WORDS])) + more


@dataclasses.dataclass
class Findings:
    """Records that cannot be used, by the kind of their problem in the order of ``add``."""

    kinds: dict[str, Kind] = dataclasses.field(default_factory=dict)

    @property
    def rows(self) -> list[int]:
        """Positions of all of them, ascending."""
        return sorted({row for kind in self.kinds.values() for row in kind.rows})

    def add(self, row: int, problems: Iterable[tuple[str, Exception]]) -> None:
        """Adds the problems of the record at ``row``, each with its kind."""
        for name, error in problems:
            if isinstance(error, TextTooLong):
                name = WIDTH
            if unknown_words(error) is not None:
                name = WORDS
            self.kinds.setdefault(name, _new_kind(name)).add(row, error)

    @classmethod
    def of_all_processes(cls, findings: Findings) -> Findings:
        """The findings of all processes as one, the same on each of them."""
        merged = cls()
        for part in map(json.loads, texts_of_processes(json.dumps(dataclasses.asdict(findings)))):
            for name, found in part["kinds"].items():
                kind = merged.kinds.setdefault(name, _new_kind(name))
                kind.rows = sorted({*kind.rows, *found["rows"]})
                examples = kind.examples + [(row, text) for row, text in found["examples"]]
                kind.examples = sorted(examples)[: kind.most]
                kind.words |= found["words"]
                kind.is_misfit |= found["is_misfit"]
                for key, tokens in found["widths"].items():
                    kind.widths[key] = max(kind.widths.get(key, 0), tokens)
        merged.kinds = dict(sorted(merged.kinds.items()))
        return merged

    def describe(self, label: str, total: int, *, can_drop: bool) -> list[str]:
        """A line for each kind, those of the most records first.

        Args:
          label: what the records are.
          total: how many there are.
          can_drop: whether others may take the place of them.
        """
        drop = ", or set --config.data.on_bad=drop to take other records in their place"
        most_first = sorted(self.kinds.values(), key=lambda kind: -len(kind.rows))
        return [kind.describe(label, total, drop if can_drop else "") for kind in most_first]


def _new_kind(name: str) -> Kind:
    return Kind(EXAMPLES_OF_ROWS if name in (ROW, IMAGE) else EXAMPLES)


def _numbers(rows: Sequence[int]) -> str:
    """Numbers of records from 1, the first of them."""
    more = f" and {len(rows) - NUMBERED} more" if len(rows) > NUMBERED else ""
    return ", ".join(str(row + 1) for row in rows[:NUMBERED]) + more


def unknown_words(error: Exception) -> UnknownWords | None:
    """The error of the tokenizer behind an error about a record, if it is about words."""
    for candidate in (error, error.__cause__):
        if isinstance(candidate, UnknownWords):
            return candidate
    return None


def error_text(error: Exception) -> str:
    """What an error says about a record, on one line."""
    return error.problem if isinstance(error, TextTooLong) else " ".join(str(error).split())


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "..."
