"""Several policies on one suite as one page, ``comparison.html``, without scripts or downloads.

Verdicts in words come first, then all numbers, break-downs, pictures or questions, and what the
papers say, which is marked as theirs.
"""

from __future__ import annotations

import json
import pathlib
import string
from collections.abc import Mapping, Sequence
from typing import Any

from corl_jax import __version__
from corl_jax.report import comparison_samples
from corl_jax.report.comparison_tables import list_verdicts, tabulate, tabulate_metrics
from corl_jax.report.rendering import render
from corl_jax.suites.comparing.comparison import Comparison
from corl_jax.suites.comparing.published import MODELS, published_rows
from corl_jax.suites.results import SuiteResults


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
    results, labels = comparison.results, make_labels(comparison.results)
    suite = results[0].suite

    # Pictures side by side, or the questions about which policies differ.
    drawings = questions = None
    score = comparison.scores[0] if comparison.scores else ""
    if score and comparison_samples.is_drawing(comparison):
        drawings = comparison_samples.choose_drawings(comparison, score)
    elif score:
        questions = comparison_samples.choose_questions(comparison, labels, score)

    return render(
        "comparison.html",
        title=f"corl_jax: {suite}: {' | '.join(labels)}",
        suite=suite,
        labels=labels,
        count=len(results[0].records),
        clusters=len({record.cluster for record in results[0].records}),
        version=__version__,
        # Differences.
        verdicts=list_verdicts(comparison.differences, labels),
        differences=tabulate(comparison.differences, labels),
        categories=tabulate(comparison.categories, labels),
        # Samples.
        score=score,
        drawings=drawings,
        questions=questions,
        # The papers' numbers, and what the folders say themselves.
        published=published_rows(suite),
        models=MODELS,
        metrics=tabulate_metrics(results),
        settings=_differing_settings(results),
        abouts=[_indented(side.about) for side in results],
    )


def _differing_settings(results: Sequence[SuiteResults]) -> dict[str, list[str]]:
    """Entries of ``about`` that are not the same for all policies."""
    settings: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for side in results for name in side.about):
        values = [_public(side.about[name]) if name in side.about else "" for side in results]
        if len(set(values)) > 1:
            settings[name] = values
    return settings


def _indented(about: Mapping[str, Any]) -> str:
    return json.dumps(_without_folders(dict(about)), indent=1, ensure_ascii=False)


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
