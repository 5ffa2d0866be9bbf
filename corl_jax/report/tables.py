"""Metrics before and after a run: which of them are tiles, and in which order all are listed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from corl_jax.evals.statistics import Estimate, Estimates
from corl_jax.report.metric_text import QA_DESCRIPTIONS, is_reward

REWARD_TILES = (
    ("reward/image@w={scale}", "Reward of pictures, guidance {scale}"),
    ("reward/text", "Reward of answers, sampled"),
)
"""Total rewards and their titles; ``{scale}`` is the guidance scale of training."""

QA_TILES = (
    ("qa_greedy", "Answers right, greedy"),
    ("qa_sampled_strict", "Answers right and well-formed, sampled"),
    ("qa_format", "Answers well-formed, sampled"),
)


@dataclasses.dataclass(frozen=True)
class Tile:
    """A metric that a reader looks for first.

    Attributes:
      name: in ``eval.json``.
      title: in words.
      before, after: of the run.
    """

    name: str
    title: str
    before: Estimate
    after: Estimate


def make_tiles(evals: Mapping[str, Any]) -> list[Tile]:
    """The metrics that a reader looks for first; none until both sides are measured.

    Args:
      evals: content of ``eval.json``.
    """
    if not {"before", "after"} <= evals.keys():
        return []
    before, after = evals["before"], evals["after"]
    tiles: list[Tile] = []

    # eval.json has the guidance scale of training once the run has ended.
    scale = guidance_text(evals)
    name = f"t2i_strict@w={scale}"
    if name in before and name in after:
        title = f"Pictures exactly right, guidance {scale}"
        tiles.append(Tile(name, title, before[name], after[name]))
        # The base may do better at another guidance scale, so its best one is compared too.
        best = best_guidance(before)
        if best is not None and best != name:
            title = f"The same, base at its best guidance {best.partition('=')[2]}"
            tiles.append(Tile(name, title, before[best], after[name]))

    for pattern, title in (*REWARD_TILES, *QA_TILES):
        name = pattern.format(scale=scale)
        if name in before and name in after:
            tiles.append(Tile(name, title.format(scale=scale), before[name], after[name]))
    return tiles


def guidance_text(evals: Mapping[str, Any]) -> str:
    """The guidance scale of training as names of metrics have it; "" until the run has ended."""
    return f"{evals['guidance']:g}" if "guidance" in evals else ""


def best_guidance(metrics: Estimates) -> str | None:
    """Name of the highest ``t2i_strict@w=W``, or None if there is none."""
    names = [name for name in metrics if name.startswith("t2i_strict@")]
    return max(names, key=lambda name: float(metrics[name]["value"] or 0)) if names else None


def group_metrics(evals: Mapping[str, Any]) -> dict[str, list[str]]:
    """Names of all metrics of either side by the title of their group, in the order of the table."""
    names = {name for side in ("before", "after") if side in evals for name in evals[side]}
    groups: dict[str, list[str]] = {}
    for name in sorted(names, key=lambda name: (_group_of(name)[0], sort_key(name))):
        groups.setdefault(_group_of(name)[1], []).append(name)
    return groups


def main_metrics(evals: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the metrics that training is judged by."""
    scale = guidance_text(evals)
    return f"t2i_strict@w={scale}", "qa_greedy", f"reward/image@w={scale}", "reward/text"


def _group_of(name: str) -> tuple[int, str]:
    """Place and title of a metric's group."""
    if is_reward(name):
        is_image = name.startswith("reward/image")
        return (0, "Rewards of pictures") if is_image else (1, "Rewards of answers")
    if name.startswith("t2i"):
        return 2, "Pictures"
    return (4, "Answers by kind of question") if "/" in name else (3, "Answers")


def sort_key(name: str) -> tuple[int, str]:
    """Order of the table: strict images, soft images, answers as in ``QA_DESCRIPTIONS``, others by name.

    Total rewards come before their parts.
    """
    if is_reward(name):
        return (name.count("/"), name)
    order = ("t2i_strict", "t2i_soft", *QA_DESCRIPTIONS)
    base = name.partition("@")[0]
    return (order.index(base) if base in order else len(order), name)
