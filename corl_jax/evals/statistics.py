"""Means over records and their standard errors: one float per record becomes one JSON value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from corl_jax.core.checks.json_object import JsonObject


class Estimate(TypedDict):
    """A mean over records, as it is stored in ``eval.json``.

    ``value`` is the mean, ``stderr`` the standard error of this mean (None for a single record),
    and ``n`` the number of records.
    """

    value: float
    stderr: float | None
    n: int


Estimates = dict[str, Estimate]
"""Estimates by the name of the metric."""


def estimate(values: Sequence[float] | np.ndarray) -> Estimate:
    """Mean of ``values`` and its standard error, ``std / sqrt(n)`` with ddof 1.

    Raises:
      ValueError: ``values`` is empty.
    """
    # Rewards come as float32 and verdicts as bool; sums are in float64.
    array = np.asarray(values, np.float64)
    if not array.size:
        raise ValueError("values must not be empty, since an empty sequence has no mean")

    stderr = float(array.std(ddof=1) / math.sqrt(array.size)) if array.size > 1 else None
    return {"value": float(array.mean()), "stderr": stderr, "n": int(array.size)}


def read_estimates(block: JsonObject) -> Estimates:
    """The estimates in a block of a file, checked.

    Raises:
      UserError: a metric without the numbers of an ``Estimate``.
    """
    estimates: Estimates = {}
    for name in block.entries:
        metric = block.block(name)
        estimates[name] = {
            "value": metric.number("value"),
            "stderr": metric.optional_number("stderr"),
            "n": metric.integer("n"),
        }
    return estimates


def format_percent(value: float, stderr: float | None) -> str:
    """``43.4 ± 1.2``: a fraction in per cent, with its standard error if it has one."""
    return f"{100 * value:.1f}" + ("" if stderr is None else f" ± {100 * stderr:.1f}")


def difference(before: Estimate, after: Estimate) -> tuple[float, float | None, bool]:
    """``after - before``, its standard error, and whether it exceeds two standard errors.

    The two estimates are treated as independent, which is conservative if both come from the same
    records.
    """
    change = after["value"] - before["value"]
    # A single record has no standard error, so no change can be called significant.
    if before["stderr"] is None or after["stderr"] is None:
        return change, None, False
    stderr = math.hypot(before["stderr"], after["stderr"])
    return change, stderr, abs(change) > 2 * stderr
