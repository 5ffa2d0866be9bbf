"""Differences of policies in words and as cells of tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from corl_jax.report.metric_text import is_reward
from corl_jax.suites.comparing.differences import NO_DIFFERENCE, Difference
from corl_jax.suites.results import SuiteResults


def is_share(row: Difference) -> bool:
    """Whether a metric is shown in per cent: no reward, and both values are from 0 to 1."""
    return not is_reward(row.metric) and 0 <= row.first <= 1 and 0 <= row.value <= 1


def format_value(value: float, share: bool) -> str:
    """``43.4 %``, or a plain number where it is no share; a dash where it is undefined."""
    if not math.isfinite(value):
        return "–"
    return f"{100 * value:.1f} %" if share else f"{value:.4g}"


def format_change(value: float, share: bool) -> str:
    """A difference with its sign, of shares in percentage points; a dash where it is unknown."""
    if not math.isfinite(value):
        return "–"
    return f"{100 * value:+.1f}" if share else f"{value:+.3g}"


def format_interval(row: Difference) -> str:
    """``+2.1 to +7.2``; a dash where there is none."""
    ends = [format_change(end, is_share(row)) for end in (row.low, row.high)]
    return "–" if "–" in ends else " to ".join(ends)


def format_figures(row: Difference, counted: str) -> str:
    """Both values, their difference with its interval, and how many ``counted`` they are over."""
    share = is_share(row)
    values = f"{format_value(row.first, share)} and {format_value(row.value, share)}"
    unit = " points" if share else ""
    return (
        f"{values}; difference {format_change(row.difference, share)}{unit}, "
        f"95 % interval {format_interval(row)}, {row.records} {counted}"
    )


def format_verdict(row: Difference, labels: Sequence[str]) -> str:
    """One difference as a sentence."""
    numbers = format_figures(row, "records")
    if row.verdict == NO_DIFFERENCE:
        return f"no difference shown between {labels[0]} and {labels[row.policy]} ({numbers})"
    return f"{labels[row.policy]} is {row.verdict} than {labels[0]} ({numbers})"


class Verdict(NamedTuple):
    """One difference in words."""

    metric: str
    sentence: str
    claimed: bool


def list_verdicts(rows: Sequence[Difference], labels: Sequence[str]) -> list[Verdict]:
    """Every difference of all records as a sentence."""
    return [
        Verdict(row.metric, format_verdict(row, labels), row.verdict != NO_DIFFERENCE)
        for row in rows
    ]


def tabulate(rows: Sequence[Difference], labels: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Rows of the table of differences by metric, each its cells by name."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for metric in dict.fromkeys(row.metric for row in rows):
        lines = [row for row in rows if row.metric == metric]
        # One scale for all lines of a metric.
        ends = [abs(end) for row in lines for end in (row.low, row.high, row.difference)]
        reach = max((end for end in ends if math.isfinite(end)), default=0.0) or 1.0
        # Differences of all records need no column for their category.
        has_categories = any(row.category for row in rows)
        groups[metric] = [_cells(row, labels, reach, has_categories) for row in lines]
    return groups


def _cells(
    row: Difference, labels: Sequence[str], reach: float, has_categories: bool
) -> dict[str, Any]:
    """One difference as texts, and its bar."""
    share = is_share(row)
    lacking = f" ({row.left_out} left out)" if row.left_out else ""
    return {
        "category": (row.category or "none") if has_categories else "",
        "label": labels[row.policy],
        "verdict": row.verdict,
        "claimed": row.verdict != NO_DIFFERENCE,
        "difference": format_change(row.difference, share),
        "interval": format_interval(row),
        "bar": _bar(row, reach),
        "first": format_value(row.first, share),
        "value": format_value(row.value, share),
        "moves": "–" if row.up is None else f"{row.up} / {row.down}",
        "count": f"{row.records}{lacking}",
        "p_value": "< 0.001" if row.p_value < 0.001 else f"{row.p_value:.3f}",
    }


def _bar(row: Difference, reach: float) -> tuple[float, float, float] | None:
    """Low end, difference and high end in per cent of a line from ``-reach`` to ``reach``.

    An unknown end is the end of the line.
    """
    if not math.isfinite(row.difference):
        return None
    low, middle, high = (
        50 + 48 * min(max(value / reach, -1), 1) for value in (row.low, row.difference, row.high)
    )
    return low, middle, high


def tabulate_metrics(results: Sequence[SuiteResults]) -> dict[str, list[str]]:
    """Metrics as ``results.json`` has them, with a text for each policy."""
    table: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for side in results for name in side.metrics):
        table[name] = []
        for side in results:
            cell = "–"
            if name in side.metrics:
                metric = side.metrics[name]
                error = "" if metric["stderr"] is None else f" ± {metric['stderr']:.3g}"
                cell = f"{metric['value']:.4g}{error}"
            table[name].append(cell)
    return table
