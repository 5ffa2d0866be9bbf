"""The claim of a study held against its figures, seed by seed.

Two arms are compared by their runs of the same seeds, by a paired t-test: a difference is claimed
where its 95 % interval excludes 0. The exchange test of ``corl compare`` would need six seeds to
show anything, since three changes of one sign are one in four by chance; the t-test has their size,
too, and assumes that they are normal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

from corl_jax.report.comparison_tables import format_figures
from corl_jax.studies.comparison import Cell, Expectation, Study
from corl_jax.studies.forgetting import measure_forgetting, order_expectations
from corl_jax.suites.comparing import resampling
from corl_jax.suites.comparing.differences import NO_DIFFERENCE, Difference

Cells = Mapping[str, Mapping[str, Cell]]
"""By arm and metric, from ``comparison.make_table``."""
Outcome = Literal["held", "not shown", "contradicted", "not measured yet"]


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

    # Changes that are all alike have no spread, of which the library would warn; one has none either.
    low, high, p_value = -np.inf, np.inf, 1.0
    if seeds > 1 and np.ptp(changes) == 0:
        low = high = float(changes[0])
        p_value = float(low == 0)
    elif seeds > 1:
        test = stats.ttest_rel(value, first)
        low, high = test.confidence_interval(resampling.CONFIDENCE)
        p_value = float(test.pvalue)
    return Difference(
        metric=metric,
        category="",
        policy=list(cells).index(arm),
        first=float(first.mean()),
        value=float(value.mean()),
        low=float(low),
        high=float(high),
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
    return [compare_arms(cells, metric, arm, first) for metric in study.columns for arm in others]


def judge_claim(study: Study, cells: Cells) -> list[Verdict]:
    """What the figures say of every part of the claim.

    A study of the order of tasks claims that the order which its own figures prescribe is best.
    """
    verdicts = [_judge(expectation, cells) for expectation in study.expectations]
    if study.order is None:
        return verdicts

    figures = measure_forgetting(study, cells)
    if figures is None:
        words = f"the prescribed order exceeds its reverse and {', '.join(study.order.rivals)}"
        return [*verdicts, Verdict(words, "not measured yet", "")]
    return verdicts + [_judge(part, cells) for part in order_expectations(figures)]


def summarize(verdicts: Sequence[Verdict]) -> Outcome:
    """One word for all parts: held if all are, contradicted if one is."""
    outcomes = {verdict.outcome for verdict in verdicts}
    if "contradicted" in outcomes:
        return "contradicted"
    return outcomes.pop() if len(outcomes) == 1 else "not shown"


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
