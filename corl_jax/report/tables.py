"""Metrics before and after a run as HTML: tiles for the main ones, and a table for all."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from corl_jax.evals.statistics import Estimate, Estimates, difference

QA_DESCRIPTIONS = {
    "qa_greedy": "right, greedy",
    "qa_greedy_mc": "right, greedy, multiple choice",
    "qa_greedy_oe": "right, greedy, open questions",
    "qa_sampled": "right, sampled",
    "qa_sampled_strict": "right and well-formed, sampled",
    "qa_format": "well-formed, sampled",
    "qa_greedy_format": "well-formed, greedy",
    "qa_truncated": "cut at the limit of the length, sampled",
    "qa_greedy_truncated": "cut at the limit of the length, greedy",
}
"""Metrics of answers in words, in the order of the table."""

LOWER_IS_BETTER = ("qa_truncated", "qa_greedy_truncated")
"""Metrics whose rise is coloured as a loss."""

QA_TILES = (
    ("qa_greedy", "Answers right, greedy"),
    ("qa_sampled_strict", "Answers right and well-formed, sampled"),
    ("qa_format", "Answers well-formed, sampled"),
)


def render_tiles(evals: Mapping[str, Any]) -> str:
    """The metrics that a reader looks for first, as tiles.

    Args:
      evals: content of ``eval.json`` with both ``before`` and ``after``.
    """
    before, after = evals["before"], evals["after"]
    tiles: list[tuple[str, Estimate, Estimate]] = []

    # eval.json has the guidance scale of training once the run has ended.
    if "guidance" in evals:
        scale = f"{evals['guidance']:g}"
        name = f"t2i_strict@w={scale}"
        if name in before and name in after:
            tiles.append((f"Pictures exactly right, guidance {scale}", before[name], after[name]))
            # The base may do better at another guidance scale, so its best one is compared too.
            best = best_guidance(before)
            if best is not None and best != name:
                best_scale = best.partition("=")[2]
                title = f"The same, base at its best guidance {best_scale}"
                tiles.append((title, before[best], after[name]))

    # Question answering has no guidance.
    for name, title in QA_TILES:
        if name in before and name in after:
            tiles.append((title, before[name], after[name]))
    return f'<div class="grid tiles">{"".join(_tile(*tile) for tile in tiles)}</div>'


def best_guidance(metrics: Estimates) -> str | None:
    """Name of the highest ``t2i_strict@w=W``, or None if there is none."""
    names = [name for name in metrics if name.startswith("t2i_strict@")]
    return max(names, key=lambda name: float(metrics[name]["value"] or 0)) if names else None


def render_table(evals: Mapping[str, Any]) -> str:
    """All metrics as a table; "" if there are none.

    Args:
      evals: content of ``eval.json``; ``after`` is missing until the run has ended.
    """
    if not evals.keys() & {"before", "after"}:
        return ""
    no_metrics: Estimates = {}
    before, after = (
        dict(evals[side]) if side in evals else no_metrics for side in ("before", "after")
    )

    # Every metric that either side has, in three groups.
    groups: dict[str, list[str]] = {
        "Pictures": [],
        "Answers": [],
        "Answers by kind of question": [],
    }
    for name in sorted(dict.fromkeys([*before, *after]), key=sort_key):
        if name.startswith("t2i"):
            groups["Pictures"].append(name)
        elif "/" in name:
            groups["Answers by kind of question"].append(name)
        else:
            groups["Answers"].append(name)

    # The two metrics that training is judged by are set in bold.
    main = f"t2i_strict@w={evals['guidance']:g}" if "guidance" in evals else ""
    body = ""
    for title, names in groups.items():
        if names:
            body += f'<tr class="head"><td colspan="7">{escape(title)}</td></tr>'
        for name in names:
            body += _row(name, before, after, bold=name in (main, "qa_greedy"))

    # The two columns without a heading are the name in eval.json and the dots.
    head = "<tr><th>measure</th><th></th><th class=num>before</th><th class=num>after</th><th></th>"
    head += "<th class=num>change</th><th class=num>records</th></tr>"

    key = '<i class="before"></i>before<i class="after"></i>after'
    return (
        f'<div class="card scroll"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'
        f'<p class="soft small key">Mean over held-out records &plusmn; one standard error.{key}'
        " &emsp; A coloured change exceeds two standard errors of the difference"
        " (the two taken as independent).</p>"
    )


def sort_key(name: str) -> tuple[int, str]:
    """Order of the table: strict images, soft images, answers as in ``QA_DESCRIPTIONS``, others."""
    order = ("t2i_strict", "t2i_soft", *QA_DESCRIPTIONS)
    base = name.partition("@")[0]
    return (order.index(base) if base in order else len(order), name)


def _row(name: str, before: Estimates, after: Estimates, bold: bool) -> str:
    """One metric: its name, both values as numbers and as dots on a line, and the change."""
    # One side may lack the metric: it is missing, or the run has not ended yet.
    start, end = before.get(name), after.get(name)
    present = start or end
    change, dots = "", ""
    if start and end:
        change = _change_pill(start, end, name in LOWER_IS_BETTER)

        # Positions on the line in per cent; a bar joins the two dots.
        left, right = (
            100 * min(max(float(estimate["value"] or 0), 0), 1) for estimate in (start, end)
        )
        bar = f"left:{min(left, right):.1f}%;width:{abs(left - right):.1f}%"
        dots = f'<span class="span"><u style="{bar}"></u>'
        dots += f'<i class="before" style="left:{left:.1f}%"></i>'
        dots += f'<i class="after" style="left:{right:.1f}%"></i></span>'

    # In the order of the headings: words, name, before, after, dots, change, records.
    cells = f"<td>{describe(name)}</td><td><code>{escape(name)}</code></td>"
    cells += f'<td class="num">{_percent(start)}</td><td class="num">{_percent(end)}</td>'
    cells += f'<td>{dots}</td><td class="num">{change}</td>'
    cells += f'<td class="num">{present["n"] if present else ""}</td>'
    return f'<tr class="{"main" if bold else ""}">{cells}</tr>'


def describe(name: str) -> str:
    """The name of a metric in words, escaped for HTML."""
    metric, _, scale = name.partition("@w=")
    if scale:
        words = "exactly right" if metric == "t2i_strict" else "partial credit"
        return f"{words}, guidance {escape(scale)}"
    base, _, kind = name.partition("/")
    words = QA_DESCRIPTIONS[base] if base in QA_DESCRIPTIONS else escape(base)
    return f"{escape(kind)}: {words}" if kind else words


def _percent(estimate: Estimate | None) -> str:
    """A value with its standard error, or a dash if it was not measured."""
    if not estimate:
        return '<span class="soft">&ndash;</span>'
    error = ""
    if estimate["stderr"] is not None:
        error = f' <span class="soft">&plusmn; {100 * estimate["stderr"]:.1f}</span>'
    return f"{100 * estimate['value']:.1f} %{error}"


def _change_pill(before: Estimate, after: Estimate, lower_is_better: bool = False) -> str:
    """The change in percentage points, coloured if it is significant."""
    change, _, significant = difference(before, after)
    look = ("up" if (change > 0) != lower_is_better else "down") if significant else ""
    return f'<span class="pill {look}">{100 * change:+.1f}</span>'


def _tile(title: str, before: Estimate, after: Estimate) -> str:
    start, end = (f"{100 * estimate['value']:.1f}" for estimate in (before, after))
    return (
        f'<div class="card tile"><span class="soft small">{escape(title)}</span>'
        f'<b><span class="from">{start} &rarr;</span> {end} %</b>'
        f"{_change_pill(before, after)}</div>"
    )
