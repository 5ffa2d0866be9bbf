"""Values of single records to named numbers with their uncertainty. In: one float per record; out: JSON values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict

import numpy as np


class Number(TypedDict):
    """``value``: mean; ``stderr``: of that mean, None for a single record; ``n``: records."""

    value: float
    stderr: float | None
    n: int


Numbers = dict[str, Number]


def number(values: Sequence[float] | np.ndarray) -> Number:
    """Mean of ``values`` and its standard error, ``std / sqrt(n)`` with ddof 1.

    Raises:
      ValueError: there are none.
    """
    array = np.asarray(values, np.float64)
    if not array.size:
        raise ValueError("the mean of no values was asked for")
    stderr = float(array.std(ddof=1) / math.sqrt(array.size)) if array.size > 1 else None
    return {"value": float(array.mean()), "stderr": stderr, "n": int(array.size)}


def percent(value: float, stderr: float | None) -> str:
    """``43.4 ± 1.2``: a share in per cent with its standard error, where it has one."""
    return f"{100 * value:.1f}" + ("" if stderr is None else f" ± {100 * stderr:.1f}")


def difference(before: Number, after: Number) -> tuple[float, float | None, bool]:
    """``after - before``, its standard error, and whether it exceeds two of them.

    The two are taken as independent, which is cautious where both saw the same records.
    """
    change = after["value"] - before["value"]
    if before["stderr"] is None or after["stderr"] is None:
        return change, None, False
    stderr = math.hypot(before["stderr"], after["stderr"])
    return change, stderr, abs(change) > 2 * stderr
