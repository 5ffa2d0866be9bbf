"""How one metric of ``eval.json`` reads: its name in words, its numbers, and the change of it."""

from __future__ import annotations

from corl_jax.evals.statistics import Estimate, difference

QA_DESCRIPTIONS = {
    "qa_greedy": "right, greedy",
    "qa_greedy_mc": "right, greedy, multiple choice",
    "qa_greedy_oe": "right, greedy, open questions",
    "qa_sampled": "right, sampled",
    "qa_sampled_strict": "right and well-formed, sampled",
    "qa_sampled_strict_mc": "right and well-formed, sampled, multiple choice",
    "qa_sampled_strict_oe": "right and well-formed, sampled, open questions",
    "qa_format": "well-formed, sampled",
    "qa_greedy_format": "well-formed, greedy",
    "qa_truncated": "cut at the limit of the length, sampled",
    "qa_greedy_truncated": "cut at the limit of the length, greedy",
}
"""Metrics of answers in words, in the order of the table."""

LOWER_IS_BETTER = ("qa_truncated", "qa_greedy_truncated")
"""Metrics whose rise is coloured as a loss."""


def is_reward(name: str) -> bool:
    """Whether a metric is a mean reward, whose numbers are as the run computes them."""
    return name.startswith("reward/")


def describe(name: str) -> str:
    """The name of a metric in words."""
    if is_reward(name):
        reward, _, variant = name.partition("@")
        part = reward.split("/", 2)[2:]
        how = f"guidance {variant.removeprefix('w=')}" if variant.startswith("w=") else variant
        return f"{part[0] if part else 'total'}, {how or 'sampled'}"
    metric, _, scale = name.partition("@w=")
    if scale:
        words = "exactly right" if metric == "t2i_strict" else "partial credit"
        return f"{words}, guidance {scale}"
    base, _, kind = name.partition("/")
    words = QA_DESCRIPTIONS.get(base, base)
    return f"{kind}: {words}" if kind else words


def format_number(name: str, value: float) -> str:
    """A share in per cent; a reward as it is."""
    return f"{value:.3f}" if is_reward(name) else f"{100 * value:.1f}"


def unit_of(name: str) -> str:
    """What follows the number of a metric."""
    return "" if is_reward(name) else " %"


def change_of(name: str, before: Estimate, after: Estimate) -> tuple[str, str]:
    """The change, of shares in percentage points, and ``up`` or ``down`` if it is significant."""
    change, _, significant = difference(before, after)
    look = ("up" if (change > 0) != (name in LOWER_IS_BETTER) else "down") if significant else ""
    return f"{'+' if change >= 0 else '-'}{format_number(name, abs(change))}", look
