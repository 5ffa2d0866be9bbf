"""Differences of two policies on the same records, with intervals, and which of them are claimed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from corl_jax.suites.comparing import resampling
from corl_jax.suites.comparing.sum_metrics import SumMetric
from corl_jax.suites.results import SuiteRecord

ALPHA = 1 - resampling.CONFIDENCE
"""How often a difference may be claimed where there is none."""

Verdict = Literal["higher", "lower", "no difference shown"]
NO_DIFFERENCE: Verdict = "no difference shown"

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


class _Table(NamedTuple):
    """Columns of one metric under two policies, over the records that have its score in both."""

    name: str
    metric: SumMetric
    places: np.ndarray
    first: np.ndarray
    second: np.ndarray


def compare_pair(
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
        was, now = (float(value(sums[:, part].sum(axis=0))) for sums in (first, second))
        changes = value(draws[:, width:][:, part]) - value(draws[:, :width][:, part])
        chance = value(exchanged[1][:, part]) - value(exchanged[0][:, part])
        low, high = resampling.percentile_interval(changes, len(first))
        scores = [[side[i].scores[table.metric.score] for i in places] for side in pair]
        moves = np.subtract(scores[1], scores[0])
        rows.append(
            Difference(
                metric=table.name,
                category=category,
                policy=policy,
                first=was,
                value=now,
                low=low,
                high=high,
                p_value=resampling.exchange_p_value(now - was, chance),
                records=len(places),
                clusters=len(first),
                left_out=len(pair[0]) - len(places),
                up=int((moves > 0).sum()),
                down=int((moves < 0).sum()),
            )
        )
    return rows
