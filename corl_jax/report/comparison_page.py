"""Several policies on one suite as one page, ``comparison.html``, without scripts or downloads.

Verdicts in words come first, then all numbers, break-downs, pictures or questions, and what the
papers say, which is marked as theirs.
"""

from __future__ import annotations

import json
import pathlib
import string
from collections.abc import Sequence
from html import escape
from typing import Any

from corl_jax import __version__
from corl_jax.report import comparison_samples
from corl_jax.report.comparison_tables import (
    placeholder,
    render_metrics,
    render_published,
    render_table,
    render_verdicts,
)
from corl_jax.report.style import CSS
from corl_jax.suites.comparing.comparison import Comparison
from corl_jax.suites.results import SuiteResults

# .full keeps the second column on narrow screens, .zero is the line of no difference, .words may
# break anywhere, .smooth are photographs, --n is the number of policies.
EXTRA_CSS = """
.full td:nth-child(2),.full th:nth-child(2){display:table-cell}
.full td.wrap{white-space:normal;min-width:160px;overflow-wrap:anywhere}
.full .span{width:110px}.full th,.full td{padding:6px 8px}
.full tr:last-child th{border-bottom:0}
.span .zero{position:absolute;left:50%;top:0;width:1px;height:12px;background:var(--soft)}
.pill.claim{background:var(--after);color:var(--card)}
.verdicts li{margin:0 0 8px;overflow-wrap:anywhere}.verdicts{margin:0;padding-left:20px}
.words{white-space:pre-line;overflow-wrap:anywhere;min-width:0}.words>*{white-space:pre-line}
.talk>img{object-fit:contain}img.smooth{image-rendering:auto}
figure.pic{margin:0}.pic figcaption{font-size:11px;width:84px;overflow-wrap:anywhere}
.draw.many{grid-template-columns:minmax(150px,1fr) repeat(var(--n),auto)}
.theirs{border-style:dashed}
@media(max-width:860px){.draw.many{grid-template-columns:minmax(0,1fr)}
.pic figcaption{width:68px}}
@media(max-width:520px){.words .say{grid-template-columns:18px 1fr}
.words .say>.soft.small{grid-column:1/-1}}
"""


def make_labels(results: Sequence[SuiteResults]) -> tuple[str, ...]:
    """``A: name`` and so on: the policy's name where these differ, else the folder's.

    Of a path only the last part is shown: a page goes to people who should not see where its
    author's files are.
    """
    policies = [side.about.get("policy") for side in results]
    names = [_public(policy) for policy in policies if isinstance(policy, str) and policy]
    if len(set(names)) < len(results):
        names = [side.folder.resolve().name for side in results]
    return tuple(
        f"{letter}: {name}" for letter, name in zip(string.ascii_uppercase, names, strict=False)
    )


def render_comparison(comparison: Comparison) -> str:
    """The page as HTML text.

    Raises:
      UserError: a picture that a record names cannot be read.
    """
    labels = make_labels(comparison.results)
    suite = comparison.results[0].suite
    title = escape(f"{suite}: {' | '.join(labels)}")
    count = len(comparison.results[0].records)
    clusters = len({record.cluster for record in comparison.results[0].records})

    sections = [
        f"<h1>{escape(suite)}</h1>"
        f'<p class="soft">{len(labels)} policies on the same {count} records '
        f"({clusters} independent clusters), compared by corl_jax {escape(__version__)}.</p>",
        f"<h2>Verdicts</h2>{render_verdicts(comparison.differences, labels)}",
        f"<h2>All numbers</h2>{render_table(comparison.differences, labels)}{_explanation()}",
        _categories(comparison, labels),
        _samples(comparison, labels),
        render_published(suite),
        "<h2>As each folder states it</h2>",
        render_metrics(comparison.results, labels) or placeholder("The folders have no metrics."),
        f"<h2>Settings</h2>{_settings(comparison.results, labels)}",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>corl_jax: {title}</title><style>{CSS}{EXTRA_CSS}</style></head>"
        f"<body><main>{''.join(sections)}</main></body></html>\n"
    )


def _explanation() -> str:
    """How the numbers are made."""
    return (
        '<p class="soft small">Every policy is compared with A on the same records. The interval '
        "(95 %) is a bootstrap over clusters: records that share a picture or a prompt are drawn "
        "together. p is how often exchanging the two policies at random, cluster by cluster, "
        "gives as large a difference. A difference is claimed where the interval excludes 0 and p "
        "is at most 0.05; whether higher is better depends on the measure. Measures and policies "
        "are looked at one by one: of twenty without any difference, one may be claimed.</p>"
    )


def _categories(comparison: Comparison, labels: Sequence[str]) -> str:
    """The break-down, with what is corrected; "" where there is none."""
    if not comparison.categories:
        return ""
    return (
        "<h2>By category</h2>"
        f"{render_table(comparison.categories, labels)}"
        '<p class="soft small">Here p is corrected for the number of categories (Holm), within '
        "each measure and policy, since among many looks some differ by chance. So an interval, "
        "which is of its category alone, may exclude 0 and yet nothing is claimed.</p>"
    )


def _samples(comparison: Comparison, labels: Sequence[str]) -> str:
    """Pictures side by side, or the questions about which policies differ."""
    if not comparison.scores:
        return ""
    score = comparison.scores[0]
    if comparison_samples.is_drawing(comparison):
        pictures = comparison_samples.render_drawings(comparison, labels, score)
        return f"<h2>What they draw</h2>{pictures}"
    questions = comparison_samples.render_questions(comparison, labels, score)
    return "<h2>Where answers differ</h2>" + (
        questions or placeholder("No question has another score under another policy.")
    )


def _settings(results: Sequence[SuiteResults], labels: Sequence[str]) -> str:
    """Entries of ``about`` that differ as a table, and all of them folded away."""
    names = dict.fromkeys(name for side in results for name in side.about)
    rows = ""
    for name in names:
        values = [_public(side.about[name]) if name in side.about else "" for side in results]
        if len(set(values)) > 1:
            cells = "".join(f'<td class="wrap">{escape(value)}</td>' for value in values)
            rows += f"<tr><th>{escape(name)}</th>{cells}</tr>"
    head = "".join(f"<th>{escape(label)}</th>" for label in labels)
    table = f"<table><tr><th>what differs</th>{head}</tr>{rows}</table>"
    shown = f'<div class="card scroll full">{table}</div>' if rows else placeholder("None differs.")

    folded = "".join(
        f"<h3>{escape(label)}</h3><pre>"
        f"{escape(json.dumps(_without_folders(side.about), indent=1, ensure_ascii=False))}</pre>"
        for label, side in zip(labels, results, strict=True)
    )
    return f"{shown}<details><summary>All settings</summary>{folded}</details>"


def _public(value: Any) -> str:
    """A setting as text, of a path its last part."""
    value = _without_folders(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _without_folders(value: Any) -> Any:
    """``value`` with the last part alone of texts that are absolute paths."""
    if isinstance(value, dict):
        return {name: _without_folders(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    if isinstance(value, str) and value.startswith(("/", "~")):
        return pathlib.PurePath(value).name
    return value
