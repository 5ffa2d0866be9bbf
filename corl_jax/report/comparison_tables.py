"""Differences of policies as HTML: verdicts in words, tables with intervals, the papers' numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from corl_jax.suites.comparing.differences import NO_DIFFERENCE, Difference
from corl_jax.suites.comparing.published import MODELS, published_rows
from corl_jax.suites.results import SuiteResults

HEADINGS = {"category": "", "policy": "", "verdict": "", "difference": "num",
            "95 % interval": "num", "": "", "A": "num", "this policy": "num",
            "up / down": "num", "records": "num", "p": "num"}  # fmt: skip
"""Columns of a table, and how their cells are aligned."""


def is_share(row: Difference) -> bool:
    """Whether a metric is shown in per cent: both values are from 0 to 1."""
    return 0 <= row.first <= 1 and 0 <= row.value <= 1


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


def format_verdict(row: Difference, labels: Sequence[str]) -> str:
    """One difference as a sentence."""
    share = is_share(row)
    values = f"{format_value(row.first, share)} and {format_value(row.value, share)}"
    unit = " points" if share else ""
    numbers = (
        f"{values}; difference {format_change(row.difference, share)}{unit}, "
        f"95 % interval {format_interval(row)}, {row.records} records"
    )
    if row.verdict == NO_DIFFERENCE:
        return f"no difference shown between {labels[0]} and {labels[row.policy]} ({numbers})"
    return f"{labels[row.policy]} is {row.verdict} than {labels[0]} ({numbers})"


def render_verdicts(rows: Sequence[Difference], labels: Sequence[str]) -> str:
    """Every difference of all records as a sentence, the claimed ones in bold."""
    items = ""
    for row in rows:
        text = escape(format_verdict(row, labels))
        text = text if row.verdict == NO_DIFFERENCE else f"<b>{text}</b>"
        items += f"<li><code>{escape(row.metric)}</code>: {text}</li>"
    return f'<div class="card"><ul class="verdicts">{items}</ul></div>'


def render_table(rows: Sequence[Difference], labels: Sequence[str]) -> str:
    """One row per difference, under the name of its metric."""
    # Differences of all records need no column for their category.
    headings = list(HEADINGS) if any(row.category for row in rows) else list(HEADINGS)[1:]
    head = "".join(f'<th class="{HEADINGS[name]}">{escape(name)}</th>' for name in headings)

    body = ""
    for metric in dict.fromkeys(row.metric for row in rows):
        body += f'<tr class="head"><td colspan="{len(headings)}">{escape(metric)}</td></tr>'
        lines = [row for row in rows if row.metric == metric]
        # One scale for all lines of a metric.
        ends = [abs(end) for row in lines for end in (row.low, row.high, row.difference)]
        reach = max((end for end in ends if math.isfinite(end)), default=0.0) or 1.0
        for row in lines:
            cells = _cells(row, labels, reach)
            columns = "".join(
                f'<td class="{HEADINGS[name]}">{cells[name]}</td>' for name in headings
            )
            body += f"<tr>{columns}</tr>"
    return f'<div class="card scroll full"><table><tr>{head}</tr>{body}</table></div>'


def _cells(row: Difference, labels: Sequence[str], reach: float) -> dict[str, str]:
    """One difference as HTML by the headings."""
    share = is_share(row)
    look = "pill" if row.verdict == NO_DIFFERENCE else "pill claim"
    lacking = f" ({row.left_out} left out)" if row.left_out else ""
    return {
        "category": escape(row.category or "none"),
        "policy": escape(labels[row.policy]),
        "verdict": f'<span class="{look}">{row.verdict}</span>',
        "difference": format_change(row.difference, share),
        "95 % interval": format_interval(row),
        "": _line(row, reach),
        "A": format_value(row.first, share),
        "this policy": format_value(row.value, share),
        "up / down": "–" if row.up is None else f"{row.up} / {row.down}",
        "records": f"{row.records}{lacking}",
        "p": "&lt; 0.001" if row.p_value < 0.001 else f"{row.p_value:.3f}",
    }


def _line(row: Difference, reach: float) -> str:
    """The interval as a bar and the difference as a dot, 0 in the middle of the line."""
    if not math.isfinite(row.difference):
        return ""
    # From -reach to reach, in per cent of the line; an unknown end is the end of the line.
    low, middle, high = (
        50 + 48 * min(max(value / reach, -1), 1) for value in (row.low, row.difference, row.high)
    )
    return (
        f'<span class="span"><u style="left:{low:.1f}%;width:{high - low:.1f}%"></u>'
        f'<b class="zero"></b><i class="after" style="left:{middle:.1f}%"></i></span>'
    )


def render_metrics(results: Sequence[SuiteResults], labels: Sequence[str]) -> str:
    """Metrics as ``results.json`` has them, one column per policy; "" if there are none."""
    names = dict.fromkeys(name for side in results for name in side.metrics)
    rows = ""
    for name in names:
        cells = ""
        for side in results:
            cell = "–"
            if name in side.metrics:
                metric = side.metrics[name]
                error = "" if metric["stderr"] is None else f" ± {metric['stderr']:.3g}"
                cell = f"{metric['value']:.4g}{error}"
            cells += f'<td class="num">{cell}</td>'
        rows += f"<tr><th>{escape(name)}</th>{cells}</tr>"
    if not rows:
        return ""
    head = "".join(f'<th class="num">{escape(label)}</th>' for label in labels)
    return (
        f'<div class="card scroll full"><table><tr><th>metric</th>{head}</tr>{rows}</table></div>'
        '<p class="soft small">Value and standard error, each policy by itself.</p>'
    )


def render_published(suite: str) -> str:
    """What the CoRL paper has of the suite, marked as theirs; "" if it has nothing."""
    rows = published_rows(suite)
    if not rows:
        return ""
    head = "".join(f'<th class="num">{escape(model)}</th>' for model in MODELS)
    body = ""
    for row in rows:
        cells = "".join(
            f'<td class="num">{value}{"†" if model in row.by_authors else ""}</td>'
            for model, value in zip(MODELS, row.values, strict=True)
        )
        body += f"<tr><th>{escape(row.part or 'all')}</th>{cells}<td>{escape(row.source)}</td></tr>"
    return (
        "<h2>For reference: the paper's numbers</h2>"
        '<div class="card scroll full theirs"><table>'
        f"<tr><th>theirs</th>{head}<th>source</th></tr>{body}</table></div>"
        '<p class="soft small">Theirs, not measured here: CoRL, arXiv 2505.17534, as printed, '
        "without intervals. Prompts, judges and versions of the suite may differ from those above, "
        "and scales do where these are shares (0.73 is 73 %). † measured by the authors of CoRL; "
        "other values of Janus-Pro are quoted by them.</p>"
    )


def placeholder(text: str) -> str:
    """A box that says which part is missing."""
    return f'<p class="empty">{escape(text)}</p>'
