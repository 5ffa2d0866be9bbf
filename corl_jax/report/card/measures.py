"""Estimates of evaluations as lines of a table, with intervals."""

from __future__ import annotations

import html
import pathlib
from collections.abc import Mapping
from typing import Any

from corl_jax.core.errors import UserError
from corl_jax.core.private_text import reduce_values
from corl_jax.evals.statistics import Estimate, Estimates, difference
from corl_jax.report.card.facts import Measure, SuiteFacts
from corl_jax.report.metric_text import describe, format_number, is_reward, unit_of
from corl_jax.suites.results import read_results

Z_95 = 1.96
"""Standard errors to either side of an estimate that make an interval of 95 %."""
SETTINGS = ("policy", "n", "seed", "guidance", "guidance_scale", "temperature", "samples", "split")
"""Entries of ``about`` that are shown, where they are single values."""


def compare_sides(evals: Mapping[str, Any]) -> tuple[Measure, ...]:
    """The metrics of ``eval.json``, before and after; () where nothing was measured yet."""
    before: Estimates = evals.get("before", {})
    after: Estimates = evals.get("after", {})
    names = sorted(dict.fromkeys([*before, *after]), key=lambda name: (not is_reward(name), name))
    return tuple(_measure(name, before.get(name), after.get(name)) for name in names)


def read_suite(folder: pathlib.Path, name: str, identity: Mapping[str, Any] | None) -> SuiteFacts:
    """What ``corl evaluate`` wrote into a folder.

    Args:
      folder: of the results.
      name: of the policy that is exported, for errors.
      identity: of the policy that is exported, or None where it cannot be compared.

    Raises:
      UserError: the folder has no results, or those of another policy.
    """
    results = read_results(folder)
    about = results.about
    if identity is not None and about.get("identity") != identity:
        raise UserError(
            f"--results {str(folder)!r} must have measured the policy {name!r}; it measured "
            f"{about.get('policy')!r} with other weights. Evaluate this policy, or leave it out"
        )
    settings = tuple(
        (key, str(reduce_values(about[key])))
        for key in SETTINGS
        if key != "policy" and isinstance(about.get(key), (int, float, str))
    )
    measures = tuple(_measure(key, None, value) for key, value in results.metrics.items())
    return SuiteFacts(results.suite, settings, measures)


def _measure(name: str, before: Estimate | None, after: Estimate | None) -> Measure:
    measured = after or before
    assert measured is not None
    change = ""
    if before and after:
        moved, stderr, _ = difference(before, after)
        change = f"{_signed(name, moved)}{_unit(name)}"
        # Values that are all alike say nothing about how far their mean may be off.
        if stderr:
            low, high = moved - Z_95 * stderr, moved + Z_95 * stderr
            change += f" [{_signed(name, low)}, {_signed(name, high)}]"
    # Descriptions are written for pages.
    words = html.unescape(str(describe(name)))
    return Measure(
        name, words, _estimate(name, before), _estimate(name, after), change, measured["n"]
    )


def _estimate(name: str, estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    error = estimate["stderr"]
    spread = "" if error is None else f" ± {format_number(name, error)}"
    return f"{format_number(name, estimate['value'])}{spread}{unit_of(name)}"


def _signed(name: str, value: float) -> str:
    return ("+" if value >= 0 else "-") + format_number(name, abs(value))


def _unit(name: str) -> str:
    return "" if is_reward(name) else " points"
