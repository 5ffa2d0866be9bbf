"""Differences of policies on the same questions, with intervals, and which of them are real.

Every policy is compared with the first. A difference is claimed where its 95 % interval excludes 0
and exchanging the two policies gives as large a one at most one time in twenty; over the categories
of one metric that holds for all looks together (Holm). ``resampling`` says how both are made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from corl_jax.core.errors import UserError
from corl_jax.suites import resampling
from corl_jax.suites.function_metrics import compare_function
from corl_jax.suites.pairing import pair_results
from corl_jax.suites.results import SuiteRecord, SuiteResults
from corl_jax.suites.sum_metrics import SumMetric, mean_of

ALPHA = 1 - resampling.CONFIDENCE
NO_DIFFERENCE = "no difference shown"

Verdict = Literal["higher", "lower", "no difference shown"]
Metrics = Mapping[str, SumMetric | Callable[[Sequence[SuiteRecord]], float]]
"""By name. A function is slower, and is not broken down by category."""
Pair = tuple[tuple[SuiteRecord, ...], tuple[SuiteRecord, ...]]
"""The same records under two policies."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """One metric of a policy beside that of the first policy.

    Attributes:
      metric: its name; a score means its mean.
      category: of the records; "" for all of them.
      policy: place of the policy among those compared; the first has 0.
      first, value: the metric of the first and of this policy, over the records that both have.
      low, high: 95 % interval of ``value - first``; infinite where it is unknown.
      p_value: how often an exchange gives as much; of a category, corrected for all categories.
      records, clusters: how many were compared.
      left_out: records where one of the two lacks the score.
      up, down: records whose score rose or fell; None for a function of records.
    """

    metric: str
    category: str
    policy: int
    first: float
    value: float
    low: float
    high: float
    p_value: float
    records: int
    clusters: int
    left_out: int
    up: int | None
    down: int | None

    @property
    def difference(self) -> float:
        """``value - first``."""
        return self.value - self.first

    @property
    def verdict(self) -> Verdict:
        """What is claimed."""
        if self.p_value <= ALPHA and self.low > 0:
            return "higher"
        return "lower" if self.p_value <= ALPHA and self.high < 0 else NO_DIFFERENCE


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Several results of one suite.

    Attributes:
      results: with records in the same order; the first is what the others are compared with.
      scores: that all have, in the order of their first appearance.
      differences: of all records, by metric and policy.
      categories: of the records of each category; empty where there is one category at most.
    """

    results: tuple[SuiteResults, ...]
    scores: tuple[str, ...]
    differences: tuple[Difference, ...]
    categories: tuple[Difference, ...]

    def to_json(self) -> dict[str, Any]:
        """As values of a JSON file."""
        sides = [{"folder": str(side.folder), "about": side.about} for side in self.results]
        rows = [
            [dataclasses.asdict(row) | {"difference": row.difference, "verdict": row.verdict}
             for row in part]
            for part in (self.differences, self.categories)
        ]  # fmt: skip
        return {
            "suite": self.results[0].suite,
            "method": {"draws": resampling.DRAWS, "confidence": resampling.CONFIDENCE},
            "policies": sides,
            "differences": rows[0],
            "categories": rows[1],
        }


def compare_results(
    results: Sequence[SuiteResults], metrics: Metrics | None = None, seed: int = 0
) -> Comparison:
    """Compares the scores that all results have, and ``metrics``.

    Args:
      results: the first is what the others are compared with.
      metrics: those that are not means of scores, by name.
      seed: of the resampling. It says the same of a metric whatever others are compared.

    Raises:
      UserError: as ``pair_results``, or there is nothing to compare.
    """
    results = pair_results(results)
    scores = _common_scores(results)
    if not scores and not metrics:
        raise UserError(
            f"folders must have a score in common; got none in "
            f"{', '.join(repr(str(result.folder)) for result in results)}. Score them first"
        )
    sums = {name: mean_of(name) for name in scores}
    functions: dict[str, Callable[[Sequence[SuiteRecord]], float]] = {}
    for name, metric in (metrics or {}).items():
        if isinstance(metric, SumMetric):
            sums[name] = metric
        else:
            functions[name] = metric

    differences, categories = [], []
    for policy, other in enumerate(results[1:], 1):
        pair = (results[0].records, other.records)
        differences += _compare_pair(pair, sums, policy, "", seed)
        differences += [_compare_function(pair, *it, policy, seed) for it in functions.items()]
        categories += _compare_categories(pair, sums, policy, seed)

    # By metric first, since a reader compares policies within a metric.
    order = {name: place for place, name in enumerate([*sums, *functions])}
    differences.sort(key=lambda row: order[row.metric])
    categories.sort(key=lambda row: order[row.metric])
    return Comparison(results, scores, tuple(differences), tuple(categories))


def _common_scores(results: Sequence[SuiteResults]) -> tuple[str, ...]:
    """Names that every side has in some record, in the order of the first side."""
    names = [
        dict.fromkeys(name for record in side.records for name in record.scores) for side in results
    ]
    return tuple(name for name in names[0] if all(name in other for other in names[1:]))


def _compare_categories(
    pair: Pair, metrics: Mapping[str, SumMetric], policy: int, seed: int
) -> list[Difference]:
    """All metrics within each category, their p-values corrected for the number of categories."""
    places: dict[str, list[int]] = {}
    for place, record in enumerate(pair[0]):
        places.setdefault(record.category, []).append(place)
    if len(places) < 2:
        return []

    rows = []
    for category, chosen in places.items():
        part = (tuple(pair[0][i] for i in chosen), tuple(pair[1][i] for i in chosen))
        rows += _compare_pair(part, metrics, policy, category, seed)

    corrected = []
    for metric in metrics:
        looks = [row for row in rows if row.metric == metric]
        for row, p_value in zip(
            looks, resampling.holm([row.p_value for row in looks]), strict=True
        ):
            corrected.append(dataclasses.replace(row, p_value=p_value))
    return corrected


class _Table(NamedTuple):
    """Columns of one metric under two policies, over the records that have its score in both."""

    name: str
    metric: SumMetric
    places: np.ndarray
    first: np.ndarray
    second: np.ndarray


def _compare_pair(
    pair: Pair, metrics: Mapping[str, SumMetric], policy: int, category: str, seed: int
) -> list[Difference]:
    """All metrics of two policies. Those over the same records share their draws."""
    groups: dict[bytes, list[_Table]] = {}
    for name, metric in metrics.items():
        both = zip(*pair, strict=True)
        usable = [metric.score in a.scores and metric.score in b.scores for a, b in both]
        places = np.flatnonzero(usable)
        # A category may have no record with the score, and then there is nothing to say.
        if places.size:
            sides = [metric.columns([side[i] for i in places]) for side in pair]
            table = _Table(name, metric, places, *sides)
            groups.setdefault(places.tobytes(), []).append(table)

    rows = []
    for tables in groups.values():
        rows += _resample_tables(pair, tables, policy, category, seed)
    order = {name: place for place, name in enumerate(metrics)}
    return sorted(rows, key=lambda row: order[row.metric])


def _resample_tables(
    pair: Pair, tables: Sequence[_Table], policy: int, category: str, seed: int
) -> list[Difference]:
    """Differences of metrics over the same records."""
    places = tables[0].places
    clusters = resampling.number_clusters([pair[0][i].cluster for i in places])
    first, second = (
        resampling.cluster_sums(clusters, np.concatenate(columns, axis=1))
        for columns in ([it.first for it in tables], [it.second for it in tables])
    )
    width = first.shape[1]
    draws = resampling.bootstrap_sums(np.hstack([first, second]), resampling.DRAWS, seed)
    exchanged = resampling.exchanged_sums(first, second, resampling.DRAWS, seed)

    rows, start = [], 0
    for table in tables:
        part = slice(start, start + table.first.shape[1])
        start = part.stop
        value = table.metric.value
        values = [float(value(sums[:, part].sum(axis=0))) for sums in (first, second)]
        changes = value(draws[:, width:][:, part]) - value(draws[:, :width][:, part])
        chance = value(exchanged[1][:, part]) - value(exchanged[0][:, part])
        low, high = resampling.percentile_interval(changes, len(first))
        scores = [[side[i].scores[table.metric.score] for i in places] for side in pair]
        moves = np.subtract(scores[1], scores[0])
        rows.append(
            Difference(
                table.name, category, policy, *values, low, high,
                p_value=resampling.exchange_p_value(values[1] - values[0], chance),
                records=len(places),
                clusters=len(first),
                left_out=len(pair[0]) - len(places),
                up=int((moves > 0).sum()),
                down=int((moves < 0).sum()),
            )
        )  # fmt: skip
    return rows


def _compare_function(
    pair: Pair,
    name: str,
    function: Callable[[Sequence[SuiteRecord]], float],
    policy: int,
    seed: int,
) -> Difference:
    """A metric that is a function of records."""
    look = compare_function(*pair, function, seed)
    return Difference(
        name, "", policy, look.first, look.second, look.low, look.high, look.p_value,
        records=len(pair[0]), clusters=look.clusters, left_out=0, up=None, down=None,
    )  # fmt: skip
