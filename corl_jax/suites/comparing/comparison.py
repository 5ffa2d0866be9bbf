"""Differences of policies on the same questions, with intervals, and which of them are real.

Every policy is compared with the first. A difference is claimed where its 95 % interval excludes 0
and exchanging the two policies gives as large a one at most one time in twenty; over the categories
of one metric that holds for all looks together (Holm). ``resampling`` says how both are made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from corl_jax.core.errors import UserError
from corl_jax.suites.comparing import resampling
from corl_jax.suites.comparing.differences import Difference, Pair, compare_pair
from corl_jax.suites.comparing.function_metrics import compare_function
from corl_jax.suites.comparing.pairing import pair_results
from corl_jax.suites.comparing.sum_metrics import SumMetric, mean_of
from corl_jax.suites.results import SuiteRecord, SuiteResults

RecordFunction = Callable[[Sequence[SuiteRecord]], float]
Metrics = Mapping[str, SumMetric | RecordFunction]
"""By name. A function is slower, and is not broken down by category."""


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
      metrics: those that are not means of scores, by name. One with the name of a score is
        compared in its place.
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
    functions: dict[str, RecordFunction] = {}
    for name, metric in (metrics or {}).items():
        if isinstance(metric, SumMetric):
            if metric.score not in scores:
                raise UserError(
                    f"folders must have the score {metric.score!r}, from which {name!r} is made; "
                    f"got {', '.join(scores) or 'none'}. Score them first"
                )
            sums[name] = metric
        else:
            functions[name] = metric

    differences, categories = [], []
    for policy, other in enumerate(results[1:], 1):
        pair = (results[0].records, other.records)
        differences += compare_pair(pair, sums, policy, "", seed)
        differences += [_compare_function(pair, *it, policy, seed) for it in functions.items()]
        categories += _compare_categories(pair, sums, policy, seed)

    # By metric first, since a reader compares policies within a metric.
    order = {name: place for place, name in enumerate([*sums, *functions])}
    differences.sort(key=lambda row: order[row.metric])
    categories.sort(key=lambda row: order[row.metric])
    return Comparison(results, scores, tuple(differences), tuple(categories))


def _common_scores(results: Sequence[SuiteResults]) -> tuple[str, ...]:
    """Scores that the first side shares with every other in some record, in its order."""
    names = dict.fromkeys(name for record in results[0].records for name in record.scores)
    shared = [
        {
            name
            for record, match in zip(results[0].records, other.records, strict=True)
            for name in record.scores.keys() & match.scores.keys()
        }
        for other in results[1:]
    ]
    return tuple(name for name in names if all(name in it for it in shared))


def _compare_categories(
    pair: Pair, metrics: Mapping[str, SumMetric], policy: int, seed: int
) -> list[Difference]:
    """All metrics within each category, their p-values corrected for the number of categories."""
    places: dict[str, list[int]] = {}
    for place, record in enumerate(pair[0]):
        # Pictures of the embedded world have none: they are compared as a whole alone.
        if record.category:
            places.setdefault(record.category, []).append(place)
    if len(places) < 2:
        return []

    rows = []
    for category, chosen in places.items():
        part = (tuple(pair[0][i] for i in chosen), tuple(pair[1][i] for i in chosen))
        rows += compare_pair(part, metrics, policy, category, seed)

    corrected = []
    for metric in metrics:
        looks = [row for row in rows if row.metric == metric]
        for row, p_value in zip(
            looks, resampling.holm([row.p_value for row in looks]), strict=True
        ):
            corrected.append(dataclasses.replace(row, p_value=p_value))
    return corrected


def _compare_function(
    pair: Pair, name: str, function: RecordFunction, policy: int, seed: int
) -> Difference:
    """A metric that is a function of records."""
    look = compare_function(*pair, function, seed)
    return Difference(
        metric=name,
        category="",
        policy=policy,
        **look._asdict(),
        records=len(pair[0]),
        left_out=0,
        up=None,
        down=None,
    )
