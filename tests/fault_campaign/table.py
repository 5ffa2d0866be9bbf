"""What a campaign prints and writes: one row per fault kind, and every problem by itself."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

from fault_campaign.campaign import Result

COLUMNS = ("kind", "runs", "survived", "steps lost", "differences", "seconds", "outcomes")

WIDTH = 100
"""Characters of an outcome in the table; the JSON file has all of them."""


def rows_by_kind(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One row per kind with the keys ``COLUMNS``, and one of all together.

    ``outcomes`` are the different ways in which processes ended, the most frequent first.
    """
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.kind, []).append(result)
    return [_row(name, group) for name, group in groups.items()] + [_row("all", results)]


def _row(name: str, results: Sequence[Result]) -> dict[str, Any]:
    counts = Counter(outcome for result in results for outcome in result.outcomes)
    return {
        "kind": name,
        "runs": len(results),
        "survived": sum(result.survived for result in results),
        "steps lost": sum(result.lost_steps for result in results),
        "differences": sum(result.differences for result in results),
        "seconds": round(sum(result.seconds for result in results)),
        "outcomes": [f"{count} x {outcome}" for outcome, count in counts.most_common()],
    }


def format_table(results: Sequence[Result], outcomes: int = 3) -> str:
    """The rows as text, each with its most frequent ``outcomes`` on lines of their own."""
    rows = rows_by_kind(results)
    heads = COLUMNS[:-1]
    widths = [max(len(str(row[head])) for row in [*rows, {h: h for h in heads}]) for head in heads]
    lines = [_line(heads, widths)]
    for row in rows:
        lines.append(_line([str(row[head]) for head in heads], widths))
        if row["kind"] != "all":
            lines += [f"    {outcome[:WIDTH]}" for outcome in row["outcomes"][:outcomes]]
    return "\n".join(lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)])


def format_problems(results: Sequence[Result]) -> str:
    """One line per run that did not survive."""
    return "\n".join(
        f"{result.number:03d} {result.kind}: {result.problem}"
        for result in results
        if not result.survived
    )


def to_json(results: Sequence[Result], **head: Any) -> dict[str, Any]:
    """All of a campaign: ``head``, the table, and every result."""
    return {
        **head,
        "table": rows_by_kind(results),
        "results": [dataclasses.asdict(result) for result in results],
    }
