"""Differences of metrics that are any function of records, by resampling the records themselves.

Slower than ``SumMetric``, so there are fewer draws, and the interval is a normal one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from corl_jax.suites.comparing import resampling
from corl_jax.suites.results import SuiteRecord

DRAWS = 300
"""Their standard deviation is known to 4 %."""


class Look(NamedTuple):
    """A metric of two policies, the 95 % interval of its difference, and its p-value."""

    first: float
    value: float
    low: float
    high: float
    p_value: float
    clusters: int


def compare_function(
    first: Sequence[SuiteRecord],
    second: Sequence[SuiteRecord],
    function: Callable[[Sequence[SuiteRecord]], float],
    seed: int,
) -> Look:
    """Compares two policies by ``function``.

    Args:
      first, second: the same records under two policies.
      function: a metric of records in any order. A record that is drawn again comes with another id
        and cluster, so that a metric over clusters counts it twice.
      seed: of the resampling.
    """
    values = float(function(first)), float(function(second))
    clusters = resampling.number_clusters([record.cluster for record in first])
    count = int(clusters.max()) + 1
    rng = np.random.default_rng(seed)

    copies = [[list(side)] for side in (first, second)]
    draws = []
    for _ in range(DRAWS):
        times = np.bincount(rng.integers(count, size=count), minlength=count)[clusters]
        one, other = (float(function(_repeat(side, times))) for side in copies)
        draws.append(other - one)
    low, high = resampling.normal_interval(values[1] - values[0], np.array(draws), count)

    chance = []
    for _ in range(DRAWS):
        keeps = rng.integers(2, size=count)[clusters].tolist()
        sides = ((first, second), (second, first))
        one, other = (
            float(function([a if keep else b for a, b, keep in zip(*it, keeps, strict=True)]))
            for it in sides
        )
        chance.append(other - one)
    p_value = resampling.exchange_p_value(values[1] - values[0], np.array(chance))
    return Look(*values, low, high, p_value, count)


def _repeat(copies: list[list[SuiteRecord]], times: np.ndarray) -> list[SuiteRecord]:
    """Each record as often as ``times`` says; further copies are made once and kept in ``copies``."""
    chosen: list[SuiteRecord] = []
    for copy in range(int(times.max())):
        if copy == len(copies):
            copies.append(
                [
                    dataclasses.replace(it, id=f"{it.id}~{copy}", cluster=f"{it.cluster}~{copy}")
                    for it in copies[0]
                ]
            )
        made = copies[copy]
        chosen += [made[place] for place in np.flatnonzero(times > copy).tolist()]
    return chosen
