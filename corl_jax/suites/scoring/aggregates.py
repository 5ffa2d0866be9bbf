"""Figures of benchmarks that are no mean over questions, of their scored records.

Sources: open-compass/VLMEvalKit at e8e78f0, ``vlmeval/dataset/utils/yorn.py`` (POPE, MME),
``multiple_choice.py`` (circular evaluation of MMBench) and ``wemath.py``; AoiDragon/POPE.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from corl_jax.suites.results import SuiteRecord
from corl_jax.suites.scoring.yes_no import YesNoCounts

Aggregate = Callable[[Sequence[SuiteRecord]], float]
"""Scored records to a figure."""

CORRECT = "correct"
"""Score of an answer that is right (1) or wrong (0)."""

PERCEPTION = (
    "OCR", "artwork", "celebrity", "color", "count", "existence", "landmark", "position", "posters",
    "scene",
)  # fmt: skip
REASONING = (
    "code_reasoning",
    "commonsense_reasoning",
    "numerical_calculation",
    "text_translation",
)
"""Kinds of questions of MME, which it adds up to two figures."""


def clusters(records: Sequence[SuiteRecord]) -> list[list[SuiteRecord]]:
    """Records by cluster."""
    groups: dict[str, list[SuiteRecord]] = collections.defaultdict(list)
    for record in records:
        groups[record.cluster].append(record)
    return list(groups.values())


def pope_counts(records: Sequence[SuiteRecord]) -> YesNoCounts:
    """Counts of the answers that POPE's rules read."""
    answers = ["yes" if record.scores["said_yes"] else "no" for record in records]
    return YesNoCounts.of(answers, [record.reference.lower() for record in records])


def mme_score(records: Sequence[SuiteRecord], kinds: Sequence[str]) -> float:
    """Sum over kinds of questions of accuracy and of pictures with both answers right, in per cent.

    A kind that no record has adds nothing: of all ten kinds of perception the sum is at most 2000.
    """
    total = 0.0
    for kind in kinds:
        of_kind = [record for record in records if record.category == kind]
        if of_kind:
            correct = np.mean([record.scores[CORRECT] for record in of_kind])
            total += 100 * float(correct + np.mean([all_correct(c) for c in clusters(of_kind)]))
    return total


def all_correct(records: Sequence[SuiteRecord]) -> bool:
    """Whether all answers are right."""
    return all(record.scores[CORRECT] == 1 for record in records)


def share_of_clusters(records: Sequence[SuiteRecord]) -> float:
    """Share of clusters whose answers are all right: circular accuracy, or MME's acc+."""
    return float(np.mean([all_correct(cluster) for cluster in clusters(records)]))


@dataclasses.dataclass(frozen=True)
class WeMathProblem:
    """A problem of several steps: whether each step, and the whole, was answered rightly."""

    steps: tuple[bool, ...]
    whole: bool


def wemath_problems(records: Sequence[SuiteRecord]) -> list[WeMathProblem]:
    """The problems whose whole was asked; categories are keys such as ``2steps_1``."""
    problems = []
    for cluster in clusters(records):
        by_key = {record.category.partition("_")[2]: record.scores[CORRECT] for record in cluster}
        if "multi" in by_key:
            whole = by_key.pop("multi") == 1
            problems.append(WeMathProblem(tuple(v == 1 for v in by_key.values()), whole))
    return problems


def wemath_score(records: Sequence[SuiteRecord], *, strict: bool) -> float:
    """WeMath's average score: 1 minus rote memorization, missing knowledge and half of what is not
    generalized, as shares of the problems; 0 where no whole problem was asked.

    Args:
      strict: counts a right whole with any wrong step as memorized, else with all of them wrong.
    """
    problems = wemath_problems(records)
    memorized = [p.whole and not (all(p.steps) if strict else any(p.steps)) for p in problems]
    unknown = [not p.whole and not all(p.steps) for p in problems]
    not_generalized = [not p.whole and all(p.steps) for p in problems]
    lost = sum(memorized) + sum(unknown) + sum(not_generalized) / 2
    return 1 - lost / len(problems) if problems else 0.0


def cluster_estimates(
    records: Sequence[SuiteRecord], aggregates: Mapping[str, Aggregate], draws: int = 500
) -> dict[str, tuple[float, float | None]]:
    """Figures and their standard errors, by drawing clusters with replacement (bootstrap).

    Args:
      records: scored.
      aggregates: figures by name.
      draws: of clusters; the same ones in every call.

    Returns:
      name to figure and standard error, which is None for a single cluster.
    """
    groups = clusters(records)
    rng = np.random.default_rng(0)
    samples: dict[str, list[float]] = collections.defaultdict(list)
    for _ in range(draws if len(groups) > 1 else 0):
        drawn = []
        # A cluster that is drawn twice counts as two.
        for place, number in enumerate(rng.integers(len(groups), size=len(groups))):
            drawn += [dataclasses.replace(record, cluster=f"{place}") for record in groups[number]]
        for name, aggregate in aggregates.items():
            samples[name].append(aggregate(drawn))

    return {
        name: (aggregate(records), float(np.std(samples[name])) if samples[name] else None)
        for name, aggregate in aggregates.items()
    }


def mean_estimate(records: Sequence[SuiteRecord], score: str) -> tuple[float, float | None]:
    """Mean of a score and its standard error, in which records of a cluster are not independent.

    The error is that of a mean of clusters of unequal size (Liang and Zeger, 1986), times
    ``sqrt(C / (C - 1))``; None for a single cluster.
    """
    values = np.array([record.scores[score] for record in records], np.float64)
    mean = float(values.mean())
    sums: dict[str, float] = collections.defaultdict(float)
    for record, value in zip(records, values, strict=True):
        sums[record.cluster] += value - mean
    count = len(sums)
    if count < 2:
        return mean, None
    squares = float(np.sum(np.square(list(sums.values()))))
    return mean, float(np.sqrt(squares * count / (count - 1)) / len(values))
