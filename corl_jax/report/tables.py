"""Metrics before and after a run as HTML: tiles for the main ones, and a table for all."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from corl_jax.evals.statistics import Estimate, Estimates
from corl_jax.report.metric_text import (
    QA_DESCRIPTIONS,
    change_pill,
    describe,
    format_estimate,
    format_number,
    is_reward,
    unit_of,
)

REWARD_TILES = (
    ("reward/image@w={scale}", "Reward of pictures, guidance {scale}"),
    ("reward/text", "Reward of answers, sampled"),
)
"""Total rewards and their titles; ``{scale}`` is the guidance scale of training."""

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
    tiles: list[tuple[str, str, Estimate, Estimate]] = []

    # eval.json has the guidance scale of training once the run has ended.
    if "guidance" in evals:
        scale = f"{evals['guidance']:g}"
        name = f"t2i_strict@w={scale}"
        if name in before and name in after:
            title = f"Pictures exactly right, guidance {scale}"
            tiles.append((name, title, before[name], after[name]))
            # The base may do better at another guidance scale, so its best one is compared too.
            best = best_guidance(before)
            if best is not None and best != name:
                best_scale = best.partition("=")[2]
                title = f"The same, base at its best guidance {best_scale}"
                tiles.append((name, title, before[best], after[name]))

    # Question answering has no guidance.
    scale = f"{evals['guidance']:g}" if "guidance" in evals else ""
    rewards = [
        (name.format(scale=scale), title.format(scale=scale)) for name, title in REWARD_TILES
    ]
    for name, title in (*rewards, *QA_TILES):
        if name in before and name in after:
            tiles.append((name, title, before[name], after[name]))
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

    # Every metric that either side has, in groups.
    groups: dict[str, list[str]] = {
        "Rewards of pictures": [],
        "Rewards of answers": [],
        "Pictures": [],
        "Answers": [],
        "Answers by kind of question": [],
    }
    for name in sorted(dict.fromkeys([*before, *after]), key=sort_key):
        if is_reward(name):
            kind = "pictures" if name.startswith("reward/image") else "answers"
            groups[f"Rewards of {kind}"].append(name)
        elif name.startswith("t2i"):
            groups["Pictures"].append(name)
        elif "/" in name:
            groups["Answers by kind of question"].append(name)
        else:
            groups["Answers"].append(name)

    # The metrics that training is judged by are set in bold.
    scale = f"{evals['guidance']:g}" if "guidance" in evals else ""
    main = (f"t2i_strict@w={scale}", "qa_greedy", f"reward/image@w={scale}", "reward/text")
    body = ""
    for title, names in groups.items():
        if names:
            body += f'<tr class="head"><td colspan="7">{escape(title)}</td></tr>'
        for name in names:
            body += _row(name, before, after, bold=name in main)

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
    """Order of the table: strict images, soft images, answers as in ``QA_DESCRIPTIONS``, others by name.

    Total rewards come before their parts.
    """
    if is_reward(name):
        return (name.count("/"), name)
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
        change = change_pill(name, start, end)
        # Rewards may be any numbers, which have no place between 0 and 1.
        if not is_reward(name):
            dots = _dots(start, end)

    # In the order of the headings: words, name, before, after, dots, change, records.
    cells = f"<td>{describe(name)}</td><td><code>{escape(name)}</code></td>"
    values = (format_estimate(name, start), format_estimate(name, end))
    cells += "".join(f'<td class="num">{value}</td>' for value in values)
    cells += f'<td>{dots}</td><td class="num">{change}</td>'
    cells += f'<td class="num">{present["n"] if present else ""}</td>'
    return f'<tr class="{"main" if bold else ""}">{cells}</tr>'


def _dots(before: Estimate, after: Estimate) -> str:
    """Two shares as dots on a line from 0 to 1, which a bar joins."""
    left, right = (
        100 * min(max(float(estimate["value"] or 0), 0), 1) for estimate in (before, after)
    )
    bar = f"left:{min(left, right):.1f}%;width:{abs(left - right):.1f}%"
    dots = f'<span class="span"><u style="{bar}"></u>'
    dots += f'<i class="before" style="left:{left:.1f}%"></i>'
    return dots + f'<i class="after" style="left:{right:.1f}%"></i></span>'


def _tile(name: str, title: str, before: Estimate, after: Estimate) -> str:
    start, end = (format_number(name, estimate["value"]) for estimate in (before, after))
    error = ""
    if is_reward(name) and after["stderr"] is not None:
        error = f' <span class="from">&plusmn; {format_number(name, after["stderr"])}</span>'
    return (
        f'<div class="card tile"><span class="soft small">{escape(title)}</span>'
        f'<b><span class="from">{start} &rarr;</span> {end}{unit_of(name)}{error}</b>'
        f"{change_pill(name, before, after)}</div>"
    )
