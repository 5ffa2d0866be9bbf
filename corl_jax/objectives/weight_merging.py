"""Several policies that began as one, made one again: the mathematics of a single weight tensor.

In: a tensor of the base and the same tensor of every expert. Out: the merged tensor, float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from corl_jax.core.registry import Registry

Merge = Callable[[np.ndarray, Sequence[np.ndarray], float, Sequence[float]], np.ndarray]
"""``(base, experts, lam, weights)``; each method uses what it needs."""

merges: Registry[Merge] = Registry("merge method")


@merges.register("gaussian")
def gaussian_merge(
    base: np.ndarray, experts: Sequence[np.ndarray], lam: float, weights: Sequence[float]
) -> np.ndarray:
    """What one expert alone changed a lot is kept whole, and small changes are averaged.

    With ``d_k = expert_k - base``, ``mu`` the mean of their means and ``sigma`` the least of their standard deviations
    (ddof 1), a change is an inlier within ``mu - lam * sigma .. mu + lam * sigma``, ends excluded, else an outlier::

        merged = base + sum_k outliers_k + mean_k inliers_k

    For two experts this is ``weight_merging`` of CoRL's code (``utils.py``), after Si et al., arXiv 2501.10661.

    Args:
      base, experts: tensors of one shape.
      lam: half width of the inliers in standard deviations; 2 in the code.
      weights: not used.
    """
    changes = [_minus(expert, base) for expert in experts]
    middle = float(np.mean([change.mean(dtype=np.float64) for change in changes]))
    spread = min(_deviation(change) for change in changes)
    low, high = middle - lam * spread, middle + lam * spread
    merged = base.astype(np.float32)
    for change in changes:
        inside = (low < change) & (change < high)
        merged += np.where(inside, change / np.float32(len(changes)), change)
    return merged


@merges.register("linear")
def linear_merge(
    base: np.ndarray, experts: Sequence[np.ndarray], lam: float, weights: Sequence[float]
) -> np.ndarray:
    """``base + sum_k weight_k * (expert_k - base)``; equal weights make it the mean of the experts.

    Args:
      base, experts: tensors of one shape.
      lam: not used.
      weights: one per expert.
    """
    merged = base.astype(np.float32)
    for weight, expert in zip(weights, experts, strict=True):
        merged += np.float32(weight) * _minus(expert, base)
    return merged


def _minus(expert: np.ndarray, base: np.ndarray) -> np.ndarray:
    return expert.astype(np.float32) - base.astype(np.float32)


def _deviation(change: np.ndarray) -> float:
    """Standard deviation with ddof 1; 0 of a single number."""
    return float(change.std(ddof=1, dtype=np.float64)) if change.size > 1 else 0.0
