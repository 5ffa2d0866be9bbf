"""Shares of a mixture by index arithmetic: how many of the first n rows each part has.

Everything is exact arithmetic on whole numbers, and a function of the number of a row alone: no
random choice, no state. The shares of any run of rows are within one row per part of the weights.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction


@dataclasses.dataclass(frozen=True)
class Quotas:
    """The parts of the rows of a task.

    Attributes:
      weights: per stage the weight of each part, whole numbers of which one is above 0.
      starts: first step of each stage, ascending from 0.
      batch_size: rows per step.
    """

    weights: tuple[tuple[int, ...], ...]
    starts: tuple[int, ...]
    batch_size: int

    @classmethod
    def of_weights(
        cls, weights: Sequence[Sequence[float]], starts: Sequence[int], batch_size: int
    ) -> Quotas:
        """Quotas of weights that may have fractions, as they are written in decimals.

        Args:
          weights: per part its weight in every stage.
          starts: first step of each stage.
          batch_size: rows per step.
        """
        stages = zip(*weights, strict=True)
        return cls(tuple(map(_as_integers, stages)), tuple(starts), batch_size)

    def counts(self, row: int) -> tuple[int, ...]:
        """How many of the rows before number ``row`` of the run each part has."""
        last = bisect.bisect_right(self.starts, row // self.batch_size) - 1
        counts = [0] * len(self.weights[0])
        for stage in range(last + 1):
            # Every stage counts anew, so that its shares do not make up for those before it.
            start = self.starts[stage] * self.batch_size
            end = row if stage == last else self.starts[stage + 1] * self.batch_size
            for part, count in enumerate(shares(end - start, self.weights[stage])):
                counts[part] += count
        return tuple(counts)

    def parts_and_numbers(self, step: int) -> list[tuple[int, int]]:
        """For each row of a step its part, and which of the rows of that part it is in the run."""
        rows, first = [], step * self.batch_size
        before = self.counts(first)
        for row in range(first + 1, first + self.batch_size + 1):
            after = self.counts(row)
            part = next(i for i, count in enumerate(after) if count > before[i])
            rows.append((part, before[part]))
            before = after
        return rows


def shares(rows: int, weights: Sequence[int]) -> list[int]:
    """How many of the first ``rows`` rows each part has; they add up to ``rows``.

    With one more row exactly one part has one more: the first part takes every row at which
    ``rows * weight / total`` reaches the next whole number, the second one takes its share of the
    others in the same way, and so on.
    """
    counts, others, total = [], rows, sum(weights)
    for weight in weights:
        count = others * weight // total if total else 0
        counts.append(count)
        others, total = others - count, total - weight
    return counts


def _as_integers(weights: Sequence[float]) -> tuple[int, ...]:
    """Weights in the same proportion as whole numbers."""
    # Through their decimals: 0.1 is a tenth here.
    fractions = [Fraction(repr(float(weight))) for weight in weights]
    denominator = math.lcm(*(fraction.denominator for fraction in fractions))
    return tuple(int(fraction * denominator) for fraction in fractions)
