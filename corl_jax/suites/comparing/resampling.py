"""Resampling over clusters: intervals by the bootstrap, and a test that exchanges two policies.

Records of one cluster stay together, since they are not independent. The bootstrap says how far a
difference may be off. It claims too much where few records differ (four gained and none lost of a
thousand), so a test beside it exchanges the policies within clusters at random and counts how often
the difference is as large: with four such records that is one time in eight.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64
from scipy.special import stdtrit

DRAWS = 10_000
CONFIDENCE = 0.95
CHUNK = 2**21
"""Weights that are in memory at once (16 MiB each time)."""


def number_clusters(names: Sequence[str]) -> Int64[np.ndarray, " N"]:
    """Numbers 0..C-1 of clusters, in the order in which they appear."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)


def cluster_sums(
    clusters: Int64[np.ndarray, " N"], columns: Float64[np.ndarray, "N K"]
) -> Float64[np.ndarray, "C K"]:
    """Sums of the columns over the records of each cluster."""
    sums = [np.bincount(clusters, weights=column) for column in columns.T]
    return np.stack(sums, axis=1)


def bootstrap_sums(
    sums: Float64[np.ndarray, "C K"], draws: int, seed: int
) -> Float64[np.ndarray, "D K"]:
    """Sums over as many clusters as there are, with replacement, ``draws`` times."""
    rng, count = np.random.default_rng(seed), len(sums)
    parts = []
    for size in _chunks(draws, count):
        # How often each cluster is in each draw; a draw is a row, and its cells are its own.
        choices = rng.integers(count, size=(size, count), dtype=np.int32).astype(np.int64)
        choices += count * np.arange(size)[:, None]
        weights = np.bincount(choices.ravel(), minlength=size * count)
        parts.append(weights.reshape(size, count).astype(np.float64) @ sums)
    return np.concatenate(parts)


def exchanged_sums(
    first: Float64[np.ndarray, "C K"], second: Float64[np.ndarray, "C K"], draws: int, seed: int
) -> tuple[Float64[np.ndarray, "D K"], Float64[np.ndarray, "D K"]]:
    """Sums of two policies that are exchanged in each cluster with probability 1/2."""
    rng, count = np.random.default_rng(seed), len(first)
    change = second - first
    parts = []
    for size in _chunks(draws, count):
        bits = np.unpackbits(rng.integers(256, size=(size, -(-count // 8)), dtype=np.uint8), axis=1)
        parts.append(bits[:, :count].astype(np.float64) @ change)
    moved = np.concatenate(parts)
    return first.sum(axis=0) + moved, second.sum(axis=0) - moved


def _chunks(draws: int, count: int) -> list[int]:
    """Numbers of draws that are made at once."""
    size = max(1, CHUNK // count)
    return [min(size, draws - start) for start in range(0, draws, size)]


def percentile_interval(draws: Float64[np.ndarray, " D"], clusters: int) -> tuple[float, float]:
    """The middle 95 % of bootstrapped values, widened for few clusters.

    The levels are those of Student's t (Hesterberg 2015, What teachers should know about the
    bootstrap, section 4.3: expanded percentiles); with many clusters they are 2.5 and 97.5 %.

    Args:
      draws: NaN where the metric is undefined, which counts as infinitely low and high.
      clusters: how many were resampled; a single one has no interval.
    """
    if clusters < 2:
        return -math.inf, math.inf
    quantile = _t_quantile(clusters) * math.sqrt(clusters / (clusters - 1))
    level = statistics.NormalDist().cdf(-quantile)
    is_defined = np.isfinite(draws)
    low = np.quantile(np.where(is_defined, draws, -np.inf), level, method="lower")
    high = np.quantile(np.where(is_defined, draws, np.inf), 1 - level, method="higher")
    return float(low), float(high)


def normal_interval(
    value: float, draws: Float64[np.ndarray, " D"], clusters: int
) -> tuple[float, float]:
    """``value`` and Student's t times the standard deviation of draws, where these are few.

    Draws from ``clusters`` spread less than the whole from which these come, by the factor that
    ``percentile_interval`` makes up for too; of a mean the result is the interval of the t-test.
    """
    if clusters < 2 or not np.isfinite(draws).all():
        return -math.inf, math.inf
    reach = _t_quantile(clusters) * math.sqrt(clusters / (clusters - 1)) * float(draws.std(ddof=1))
    return value - reach, value + reach


def _t_quantile(clusters: int) -> float:
    """How many standard errors a 95 % interval reaches."""
    return float(stdtrit(clusters - 1, (1 + CONFIDENCE) / 2))


def exchange_p_value(difference: float, draws: Float64[np.ndarray, " D"]) -> float:
    """How often an exchange gives a difference as large, in either direction.

    Args:
      difference: that was measured; 1 where it is undefined.
      draws: differences after exchanges; NaN counts as large.
    """
    if not math.isfinite(difference):
        return 1.0
    # Sums in another order may be off by a few roundings.
    tolerance = 1e-9 * max(1.0, abs(difference))
    is_smaller = np.abs(draws) < abs(difference) - tolerance
    return float(1 + np.count_nonzero(~is_smaller)) / (1 + len(draws))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of several looks, corrected so that all together err as rarely as one (Holm 1979)."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted
