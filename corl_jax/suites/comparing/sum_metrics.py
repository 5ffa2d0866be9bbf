"""Metrics that are functions of sums over records, so that many resamples of records are one product.

A mean is one (sum of scores over their count), F1 another (from counts of hits and misses), and so
is the share of pictures about which every question was answered right.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float64

from corl_jax.suites.results import SuiteRecord


@dataclasses.dataclass(frozen=True)
class SumMetric:
    """A metric of records; calling it computes it.

    Attributes:
      score: in ``SuiteRecord.scores``, which the metric reads; records without it do not count.
      columns: numbers of each record, ``[N, K]``.
      value: of sums of the columns over records, ``[..., K]``, the metric ``[...]``; NaN where it
        is undefined.
    """

    score: str
    columns: Callable[[Sequence[SuiteRecord]], Float64[np.ndarray, "N K"]]
    value: Callable[[np.ndarray], np.ndarray]

    def __call__(self, records: Sequence[SuiteRecord]) -> float:
        """The metric of ``records``."""
        usable = [record for record in records if self.score in record.scores]
        return float(self.value(self.columns(usable).sum(axis=0))) if usable else float("nan")


def mean_of(score: str) -> SumMetric:
    """The mean of a score."""

    def columns(records: Sequence[SuiteRecord]) -> np.ndarray:
        return np.array([(record.scores[score], 1.0) for record in records], np.float64)

    return SumMetric(score, columns, _ratio)


def all_right(
    score: str, group: Callable[[SuiteRecord], str] = lambda record: record.cluster
) -> SumMetric:
    """The share of groups whose records all have a score of 1.

    MME's acc_plus (both questions of a picture) and circular accuracy (a question with its options
    in every order) are of this kind.

    Args:
      score: 0 or 1 per record.
      group: what groups a record, within its cluster.
    """

    def columns(records: Sequence[SuiteRecord]) -> np.ndarray:
        # A group counts at its first record.
        table = np.zeros((len(records), 2))
        first: dict[tuple[str, str], int] = {}
        for place, record in enumerate(records):
            start = first.setdefault((record.cluster, group(record)), place)
            if start == place:
                table[place] = 1
            if record.scores[score] < 1:
                table[start, 0] = 0
        return table

    return SumMetric(score, columns, _ratio)


def f1_of(score: str, positive: str) -> SumMetric:
    """F1 of one of two answers, as POPE has it for "yes".

    Args:
      score: 1 where the answer is right, else 0.
      positive: the reference answer that counts as positive; every other one is negative.
    """

    def columns(records: Sequence[SuiteRecord]) -> np.ndarray:
        rows = []
        for record in records:
            # Wrong about a negative record means that the positive answer was given.
            is_positive, is_right = record.reference == positive, record.scores[score] >= 1
            rows.append((is_positive and is_right, not (is_positive or is_right),
                         is_positive and not is_right))  # fmt: skip
        return np.array(rows, np.float64)

    def value(sums: np.ndarray) -> np.ndarray:
        hits, false_alarms, misses = sums[..., 0], sums[..., 1], sums[..., 2]
        return _divide(2 * hits, 2 * hits + false_alarms + misses)

    return SumMetric(score, columns, value)


def _ratio(sums: np.ndarray) -> np.ndarray:
    return _divide(sums[..., 0], sums[..., 1])


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Their ratio, NaN where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator == 0, np.nan, numerator / denominator)
