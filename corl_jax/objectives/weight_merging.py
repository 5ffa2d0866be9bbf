"""Merges policies that were trained from one base: the mathematics of a single weight tensor.

In: a tensor of the base, and the same tensor of every expert. Out: the merged tensor, float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from corl_jax.core.registry import Registry

# ``(base, experts, lam, weights)`` to the merged tensor; no method uses all of them.
Merge = Callable[[np.ndarray, Sequence[np.ndarray], float, Sequence[float]], np.ndarray]

merges: Registry[Merge] = Registry("merge method")


@merges.register("gaussian")
def gaussian_merge(
    base: np.ndarray, experts: Sequence[np.ndarray], lam: float, weights: Sequence[float]
) -> np.ndarray:
    """Adds up large changes of single experts, and averages small changes.

    Let ``d_k = expert_k - base``, ``mu`` the mean of the means of all ``d_k`` and ``sigma`` the
    smallest of their standard deviations (ddof 1). A change is an inlier if it is within
    ``mu - lam * sigma .. mu + lam * sigma``, ends excluded, else an outlier::

        merged = base + sum_k outliers_k + mean_k inliers_k

    For two experts this is ``weight_merging`` of ULM-R1's code (``utils.py``), after Si et al.,
    arXiv 2501.10661.

    Args:
      base, experts: tensors of one shape.
      lam: half width of the range of inliers in standard deviations; 2 in that code.
      weights: ignored.
    """
    changes = [_difference(expert, base) for expert in experts]

    # The range of inliers is the same for all experts.
    mu = float(np.mean([change.mean(dtype=np.float64) for change in changes]))
    sigma = min(_std(change) for change in changes)
    low, high = mu - lam * sigma, mu + lam * sigma

    merged = base.astype(np.float32)
    for change in changes:
        is_inlier = (low < change) & (change < high)
        merged += np.where(is_inlier, change / np.float32(len(changes)), change)
    return merged


@merges.register("linear")
def linear_merge(
    base: np.ndarray, experts: Sequence[np.ndarray], lam: float, weights: Sequence[float]
) -> np.ndarray:
    """``base + sum_k weight_k * (expert_k - base)``; equal weights give the mean of the experts.

    Args:
      base, experts: tensors of one shape.
      lam: ignored.
      weights: one per expert.
    """
    merged = base.astype(np.float32)
    for weight, expert in zip(weights, experts, strict=True):
        merged += np.float32(weight) * _difference(expert, base)
    return merged


def _difference(expert: np.ndarray, base: np.ndarray) -> np.ndarray:
    """``expert - base`` in float32, whatever their dtypes are."""
    return expert.astype(np.float32) - base.astype(np.float32)


def _std(change: np.ndarray) -> float:
    """Standard deviation with ddof 1; 0 for a single number, where it is not defined."""
    return float(change.std(ddof=1, dtype=np.float64)) if change.size > 1 else 0.0
