"""The claim of a study held against its figures, seed by seed.

Two arms are compared by their runs of the same seeds, by the rule of ``corl compare``: a difference
is claimed where its 95 % interval excludes 0 and exchanging the arms at random gives as large a one
at most one time in twenty. Seeds are to a study what clusters are to a suite.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from corl_jax.report.comparison_tables import format_figures
from corl_jax.studies.comparison import Cell, Expectation, Study
from corl_jax.suites.comparing import resampling
from corl_jax.suites.comparing.differences import ALPHA, NO_DIFFERENCE, Difference

Cells = Mapping[str, Mapping[str, Cell]]
"""By arm and metric, from ``comparison.make_table``."""
Outcome = Literal["held", "not shown", "contradicted", "not measured yet"]
FEWEST_SEEDS = 6
"""Of fewer, no exchange is as rare as one in twenty: all ``S`` signs alike are 2 in ``2**S``."""


class Verdict(NamedTuple):
    """One part of the claim, and what the figures say of it.

    Attributes:
      expectation: in words.
      outcome: what the figures say.
      figures: both values, their difference and its interval; "" where nothing is measured.
    """

    expectation: str
    outcome: Outcome
    figures: str


def compare_arms(cells: Cells, metric: str, arm: str, other: str) -> Difference:
    """``arm`` compared with ``other`` over the seeds that both have.

    Args:
      cells: with both arms.
      metric: to compare.
      arm: whose place in ``cells`` the result has as its policy.
      other: that ``arm`` is compared with.
    """
    pairs = zip(cells[other][metric].values, cells[arm][metric].values, strict=False)
    first, value = np.array(list(pairs), np.float64).T
    seeds, changes = len(first), value - first

    draws = resampling.bootstrap_sums(changes[:, None], resampling.DRAWS, seed=0)[:, 0] / seeds
    low, high = resampling.normal_interval(float(changes.mean()), draws, seeds)
    sums = resampling.exchanged_sums(first[:, None], value[:, None], resampling.DRAWS, seed=0)
    p_value = resampling.exchange_p_value(float(changes.mean()), (sums[1] - sums[0])[:, 0] / seeds)
    return Difference(
        metric=metric,
        category="",
        policy=list(cells).index(arm),
        first=float(first.mean()),
        value=float(value.mean()),
        low=low,
        high=high,
        p_value=p_value,
        records=seeds,
        clusters=seeds,
        left_out=0,
        up=int((changes > 0).sum()),
        down=int((changes < 0).sum()),
    )


def list_differences(study: Study, cells: Cells) -> list[Difference]:
    """Every arm compared with the first one, metric by metric."""
    first, *others = cells
    return [compare_arms(cells, metric, arm, first) for metric in study.metrics for arm in others]


def judge_claim(study: Study, cells: Cells) -> list[Verdict]:
    """What the figures say of every part of the claim."""
    return [_judge(expectation, cells) for expectation in study.expectations]


def summarize(verdicts: Sequence[Verdict]) -> Outcome:
    """One word for all parts: held if all are, contradicted if one is."""
    outcomes = {verdict.outcome for verdict in verdicts}
    if "contradicted" in outcomes:
        return "contradicted"
    return outcomes.pop() if len(outcomes) == 1 else "not shown"


def describe_seeds(cells: Cells, metric: str) -> str:
    """Why so few seeds can show nothing; "" if they are enough."""
    seeds = max(len(row[metric].values) for row in cells.values())
    if seeds >= FEWEST_SEEDS:
        return ""
    return (
        f"{seeds} seeds cannot show a difference: exchanging two arms gives as large a one at "
        f"least {2 / 2**seeds:.0%} of the time, and {ALPHA:.0%} is claimed. "
        f"Run the study with --seeds {FEWEST_SEEDS} or more."
    )


def _judge(expectation: Expectation, cells: Cells) -> Verdict:
    arm, relation, other, metric = expectation
    words = f"{arm} {'exceeds' if relation == 'above' else 'equals'} {other} in {metric}"
    if not {arm, other} <= cells.keys():
        return Verdict(words, "not measured yet", "")

    row = compare_arms(cells, metric, arm, other)
    # That two arms are equal cannot be shown, only contradicted.
    outcome: Outcome = "not shown"
    if relation == "above" and row.verdict != NO_DIFFERENCE:
        outcome = "held" if row.verdict == "higher" else "contradicted"
    elif row.verdict != NO_DIFFERENCE:
        outcome = "contradicted"
    return Verdict(words, outcome, format_figures(row, "seeds"))
